package closure

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"

	"fleet/closure/storepath"
)

// CorruptError says that a NAR is not the one that its path's info announces.
type CorruptError struct {
	Path storepath.Path
	// WantHash and GotHash are SHA-256, WantSize and GotSize bytes.
	WantHash, GotHash [32]byte
	WantSize, GotSize uint64
}

func (e *CorruptError) Error() string {
	if e.WantSize != e.GotSize {
		return fmt.Sprintf("NAR of %q is corrupt: it has %d bytes, not %d", e.Path, e.GotSize, e.WantSize)
	}
	return fmt.Sprintf("NAR of %q is corrupt: its SHA-256 is %s, not %s", e.Path, hex.EncodeToString(e.GotHash[:]), hex.EncodeToString(e.WantHash[:]))
}

// Verifier is a writer that measures a NAR. It is not safe for concurrent use.
type Verifier struct {
	hash hash.Hash
	size uint64
}

// NewVerifier begins a NAR.
func NewVerifier() *Verifier { return &Verifier{hash: sha256.New()} }

// Write never fails.
func (v *Verifier) Write(data []byte) (int, error) {
	v.size += uint64(len(data))
	return v.hash.Write(data)
}

// Sum returns the SHA-256 and the size in bytes of what was written.
func (v *Verifier) Sum() (sum [32]byte, size uint64) {
	v.hash.Sum(sum[:0])
	return sum, v.size
}

// Check compares what was written with info; the error is a [*CorruptError].
func (v *Verifier) Check(info PathInfo) error {
	sum, size := v.Sum()
	if sum != info.NarHash || size != info.NarSize {
		return &CorruptError{Path: info.Path, WantHash: info.NarHash, GotHash: sum, WantSize: info.NarSize, GotSize: size}
	}
	return nil
}

// VerifyReader reads exactly info.NarSize bytes of r and nothing after them. It holds the last piece back until the hash is known:
// of a NAR that is corrupt a reader sees a [*CorruptError] and never the end.
func VerifyReader(info PathInfo, r io.Reader) io.Reader {
	return &verifyReader{info: info, r: r, left: info.NarSize, verifier: NewVerifier()}
}

type verifyReader struct {
	info     PathInfo
	r        io.Reader
	left     uint64
	verifier *Verifier
	err      error
}

func (v *verifyReader) Read(data []byte) (int, error) {
	if v.err != nil || len(data) == 0 {
		return 0, v.err
	}
	if v.left == 0 {
		v.err = v.verifier.Check(v.info)
		if v.err == nil {
			v.err = io.EOF
		}
		return 0, v.err
	}
	n, err := v.r.Read(data[:min(uint64(len(data)), v.left)])
	v.left -= uint64(n)
	_, _ = v.verifier.Write(data[:n])
	switch {
	case v.left == 0:
		if v.err = v.verifier.Check(v.info); v.err != nil {
			return 0, v.err
		}
		v.err = io.EOF
		return n, nil
	case err == io.EOF:
		v.err = v.verifier.Check(v.info)
		return 0, v.err
	case err != nil:
		v.err = err
	}
	return n, err
}
