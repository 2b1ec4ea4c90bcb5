package agent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"fleet/closure/storepath"
	"fleet/push/proto"
)

func toWire(info storepath.Info) proto.PathInfo {
	return proto.PathInfo{
		Path: info.Path.String(), NarHash: hex.EncodeToString(info.NarHash[:]), NarSize: info.NarSize,
		References: pathTexts(info.References), Deriver: info.Deriver.String(), Signatures: info.Signatures, CA: info.CA,
	}
}

// fromWire checks what came over the wire.
func fromWire(wire proto.PathInfo) (storepath.Info, error) {
	info := storepath.Info{NarSize: wire.NarSize, Signatures: wire.Signatures, CA: wire.CA}
	var err error
	if info.Path, err = storepath.Parse(wire.Path); err != nil {
		return info, err
	}
	if info.References, err = parsePaths(wire.References); err != nil {
		return info, fmt.Errorf("references of %q: %w", info.Path, err)
	}
	slices.SortFunc(info.References, storepath.Compare)
	if wire.Deriver != "" {
		if info.Deriver, err = storepath.Parse(wire.Deriver); err != nil {
			return info, fmt.Errorf("deriver of %q: %w", info.Path, err)
		}
	}
	hash, err := hex.DecodeString(wire.NarHash)
	if err != nil || len(hash) != len(info.NarHash) {
		return info, errors.New("its NAR hash is no SHA-256")
	}
	copy(info.NarHash[:], hash)
	return info, nil
}
