package storepath

import "fmt"

// base32Digits is Nix's base 32: digits and lower-case letters without e, o, t and u (libutil/base-nix-32.cc).
const base32Digits = "0123456789abcdfghijklmnpqrsvwxyz"

// EncodeBase32 returns data in Nix's base 32, which begins with the last bits.
func EncodeBase32(data []byte) string {
	if len(data) == 0 {
		return ""
	}
	length := base32Length(len(data))
	text := make([]byte, length)
	for k := range text {
		bit := 5 * (length - 1 - k)
		i, shift := bit/8, bit%8
		value := uint16(data[i]) >> shift
		if i+1 < len(data) {
			value |= uint16(data[i+1]) << (8 - shift)
		}
		text[k] = base32Digits[value&31]
	}
	return string(text)
}

// DecodeBase32 reads size bytes from text. The text must have the exact length, and the bits that
// do not fit into size bytes must be zero, so that each value has one text only.
func DecodeBase32(text string, size int) ([]byte, error) {
	if len(text) != base32Length(size) {
		return nil, fmt.Errorf("decode base 32: %d characters, not %d", len(text), base32Length(size))
	}
	data := make([]byte, size)
	for k := range len(text) {
		digit, ok := digitValue(text[k])
		if !ok {
			return nil, fmt.Errorf("decode base 32: character %q", text[k:k+1])
		}
		bit := 5 * (len(text) - 1 - k)
		i, shift := bit/8, bit%8
		wide := uint16(digit) << shift
		data[i] |= byte(wide)
		carry := byte(wide >> 8)
		if i+1 < size {
			data[i+1] |= carry
		} else if carry != 0 {
			return nil, fmt.Errorf("decode base 32: %d bytes do not hold the value", size)
		}
	}
	return data, nil
}

func base32Length(size int) int { return (size*8 + 4) / 5 }

func digitValue(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'd':
		return c - 'a' + 10, true
	case c >= 'f' && c <= 'n':
		return c - 'f' + 14, true
	case c >= 'p' && c <= 's':
		return c - 'p' + 23, true
	case c >= 'v' && c <= 'z':
		return c - 'v' + 27, true
	}
	return 0, false
}
