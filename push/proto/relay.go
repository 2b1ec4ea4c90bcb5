package proto

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
)

// A host may take paths from another host, the relay, in place of the operator. The operator asks the target for [MethodTake] and gets the hash of a key that the
// target has made for this alone; it asks the relay for [MethodOffer] with that hash, and gets the hash of the relay's key and where it listens; and it tells the target
// that, with what it knows of the paths. Either private key stays where it was made. Through TLS 1.3, in which both sides accept the other's key alone, the
// target then sends one [ExportRequest], framed by [WriteWanted], and the relay answers in the format of [MethodExport].
const (
	// MethodOffer: [OfferRequest], data from the agent: one JSON line of [OfferReady] → [ImportResult]. The offer stands until the client ends its data.
	MethodOffer = "store.offer"
	// MethodTake: nothing; data from the agent: a JSON line of [TakeReady], then JSON lines of [ImportEvent]; data to the agent: what [WriteTake] writes →
	// [ImportResult].
	MethodTake = "store.take"
)

// OfferRequest lets one peer take paths, once.
type OfferRequest struct {
	// Port is the TCP port that the agent listens on; 0 means any that is free.
	Port int `json:"port,omitempty"`
	// Peer is the hash of the peer's key.
	Peer string `json:"peer"`
	// Paths are what the peer may take, without the store's folder. They are valid on the host.
	Paths Lines `json:"paths"`
}

// OfferReady says where an agent listens.
type OfferReady struct {
	Port int `json:"port"`
	// Key is the hash of the agent's key.
	Key string `json:"key"`
	// Addresses are the host's IP addresses.
	Addresses []string `json:"addresses"`
}

// TakeReady is the first line of an agent that is about to take paths.
type TakeReady struct {
	// Key is the hash of the agent's key.
	Key string `json:"key"`
}

// TakeFrom says where paths are taken from.
type TakeFrom struct {
	// Relay is the relay's name, for messages.
	Relay string `json:"relay"`
	// Addresses are names and IP addresses of the relay, tried in order.
	Addresses []string `json:"addresses"`
	Port      int      `json:"port"`
	// Key is the hash of the relay's key.
	Key string `json:"key"`
}

// MaxRelayAddresses bounds the addresses of one relay.
const MaxRelayAddresses = 16

// takeFloor is the speed below which a take is not worth waiting for, in bytes of NARs a second.
const takeFloor = 256 << 10

// TakeTime is the longest that NARs of a size, in bytes, may take from a relay to a host.
func TakeTime(size uint64) time.Duration {
	const most = 30 * 24 * 3600 // any more would not fit, and nobody waits for it
	return time.Duration(min(size/takeFloor+1, most)) * time.Second
}

const (
	// maxTake bounds what the infos of a [MethodTake] unpack to, in bytes, and maxTakePaths how many there are.
	maxTake      = 64 << 20
	maxTakePaths = 1 << 18
	// takeWindow is the zstd window of both sides, in bytes.
	takeWindow = 1 << 20
	// maxWanted bounds the one request of a tunnel, in bytes.
	maxWanted = 8 << 20
)

// WriteTake writes what a [MethodTake] reads: zstd, in which are JSON values, the [TakeFrom] and then the infos, references first. It does not close w.
func WriteTake(w io.Writer, from TakeFrom, infos []PathInfo) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(takeWindow))
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(z)
	err = encoder.Encode(from)
	for i := 0; i < len(infos) && err == nil; i++ {
		err = encoder.Encode(infos[i])
	}
	return errors.Join(err, z.Close())
}

// ReadTake reads what [WriteTake] has written, to the end of r. Its memory is bounded whatever it reads. Whether paths are store paths is the caller's to check.
func ReadTake(r io.Reader) (from TakeFrom, infos []PathInfo, err error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(takeWindow), zstd.WithDecoderMaxMemory(maxTake))
	if err != nil {
		return from, nil, err
	}
	defer z.Close()
	limited := &io.LimitedReader{R: z, N: maxTake}
	decoder := json.NewDecoder(limited)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&from); err != nil {
		return from, nil, fmt.Errorf("read what to take: %w", cut(err))
	}
	for {
		var info PathInfo
		if err := decoder.Decode(&info); err == io.EOF && limited.N > 0 {
			return from, infos, nil
		} else if err != nil || limited.N <= 0 {
			return from, nil, fmt.Errorf("read what to take: %w", errors.Join(tooLong(limited), cut(err)))
		}
		if err := checkImportInfo(info); err != nil {
			return from, nil, fmt.Errorf("read what to take: %w", err)
		}
		if infos = append(infos, info); len(infos) > maxTakePaths {
			return from, nil, fmt.Errorf("read what to take: more than %d paths", maxTakePaths)
		}
	}
}

func tooLong(l *io.LimitedReader) error {
	if l.N > 0 {
		return nil
	}
	return fmt.Errorf("more than %d bytes", maxTake)
}

// cut is an end that came too early.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// WriteWanted writes the one request of a tunnel: the paths that are wanted, without the store's folder.
func WriteWanted(w io.Writer, paths Lines) error {
	text, err := json.Marshal(paths)
	if err != nil {
		return err
	}
	if len(text) > maxWanted {
		return fmt.Errorf("ask for %d paths: the request has %d bytes, the limit is %d", len(paths), len(text), maxWanted)
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// ReadWanted reads what [WriteWanted] has written, and nothing that follows it, however much that is. More than most paths are an error.
func ReadWanted(r io.ByteReader, most int) (Lines, error) {
	const beside, each = 1 << 10, 512 // a name has 211 bytes at most
	limit := min(maxWanted, beside+each*min(most, maxLineCount))
	var text bytes.Buffer
	for {
		b, err := r.ReadByte()
		if err != nil {
			return nil, fmt.Errorf("read what is wanted: %w", cut(err))
		}
		if b == '\n' {
			break
		}
		if text.Len() == limit {
			return nil, fmt.Errorf("read what is wanted: more than %d bytes", limit)
		}
		text.WriteByte(b)
	}
	paths, err := decodeLines(text.Bytes(), most)
	if err != nil {
		return nil, fmt.Errorf("read what is wanted: %w", err)
	}
	return paths, nil
}
