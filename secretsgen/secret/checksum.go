package secret

import (
	"crypto/sha256"
	"encoding/hex"
)

// Checksum is what [SealedPart] keeps of an armored file.
func Checksum(armor string) string {
	sum := sha256.Sum256([]byte(armor))
	return hex.EncodeToString(sum[:])
}
