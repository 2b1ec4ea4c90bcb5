package push

import (
	"slices"
	"strings"
	"testing"

	"fleet/push/proto"
)

func TestWhatOnlyTheHostHasIsNotSentAgain(t *testing.T) {
	const n, size = 4, 2_000_000
	for _, tt := range []struct {
		rule   string
		change func([]byte) []byte
		// most is what may be sent, in percent of a whole push.
		most float64
	}{
		{"a rebuild", func([]byte) []byte { return nil }, 2},
		{"a patch", func(data []byte) []byte { return slices.Insert(data, len(data)/3, []byte("patched here")...) }, 10},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			l := newLab(t)
			h, empty := l.host(t, hostOptions{}), l.host(t, hostOptions{})
			old := l.chain(t, n, size)
			push(t, connect(t, l.connector(), h.spec("root")), old)
			h.runs(t, old)
			fresh := l.changed(t, old, n, tt.change)
			l.lose(t, old)
			whole := push(t, connect(t, l.connector(), empty.spec("root")), fresh)
			c, r := l.connector(), &recorder{}
			c.Reporter = r
			result := push(t, connect(t, c, h.spec("root")), fresh)
			share := 100 * float64(result.WireBytes) / float64(whole.WireBytes)
			t.Logf("%d bytes crossed for %d of NARs, %.2f %% of the %d of a whole push", result.WireBytes, result.NarBytes, share, whole.WireBytes)
			if share > tt.most || result.Paths != n {
				t.Errorf("%.2f %% were sent for %d paths, want %.2f at most", share, result.Paths, tt.most)
			}
			if r.count("sent whole") != 0 || r.count("damaged") != 0 {
				t.Errorf("%v", r.events)
			}
			h.sh(t, "nix-store --check-validity $(nix-store --query --requisites "+fresh.String()+")")
			if got, want := h.sh(t, "sha256sum <"+fresh.String()), command(t, "sh", "-c", "sha256sum <"+fresh.String()); strings.Fields(got)[0] != strings.Fields(want)[0] {
				t.Error("the contents differ")
			}
		})
	}
}

var _ = proto.MethodHoldings
