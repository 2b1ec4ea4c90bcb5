package agent

import (
	"encoding/hex"

	"fleet/closure/storepath"
	"fleet/push/proto"
)

func toWire(info storepath.Info) proto.PathInfo {
	return proto.PathInfo{
		Path: info.Path.String(), NarHash: hex.EncodeToString(info.NarHash[:]), NarSize: info.NarSize,
		References: pathTexts(info.References), Deriver: info.Deriver.String(), Signatures: info.Signatures, CA: info.CA,
	}
}
