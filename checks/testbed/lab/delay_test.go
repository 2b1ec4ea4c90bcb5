package lab

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wirePair is a device as the line sees it, and its other end.
func wirePair(t *testing.T, name string) (device, other *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	device, other = os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	t.Cleanup(func() { other.Close() })
	return device, other
}

func TestFramesComeInOrderAndNotBeforeTheirTime(t *testing.T) {
	const oneWay, frames = 30 * time.Millisecond, 20
	near, left := wirePair(t, "near")
	far, right := wirePair(t, "far")
	l := newDelayLine(near, far, oneWay)
	defer l.stop()
	for _, way := range [][2]*os.File{{left, right}, {right, left}} {
		sent := make([]time.Time, frames)
		for i := range frames {
			sent[i] = time.Now()
			if _, err := fmt.Fprintf(way[0], "frame %d", i); err != nil {
				t.Fatal(err)
			}
		}
		buffer := make([]byte, 100)
		for i := range frames {
			n, err := way[1].Read(buffer)
			if took := time.Since(sent[i]); err != nil || string(buffer[:n]) != fmt.Sprintf("frame %d", i) || took < oneWay {
				t.Errorf("frame %d: %q after %s, %v", i, buffer[:n], took, err)
			}
		}
	}
}

func TestWhatDoesNotFitIsLost(t *testing.T) {
	q := &delayQueue{}
	q.changed.L = &q.mu
	q.put(delayedFrame{data: make([]byte, maxDelayed-1)})
	q.put(delayedFrame{data: make([]byte, 2)})
	q.put(delayedFrame{data: make([]byte, 1)})
	if len(q.frames) != 2 || q.bytes != maxDelayed {
		t.Errorf("%d frames with %d bytes are under way", len(q.frames), q.bytes)
	}
}
