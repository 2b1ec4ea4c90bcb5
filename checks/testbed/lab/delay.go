package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxFrame holds the largest frame that the kernel hands over unsegmented, and the header in front of it.
	maxFrame = 64<<10 + 256
	// maxDelayed bounds what is under way in one direction. It is far more than what TCP sends ahead of its acknowledgements here.
	maxDelayed = 64 << 20
)

// delay puts a line of packets into the host's link: its end on the bridge becomes a port of a bridge of its own, and two TAP devices join
// the two bridges through this process.
func (h *Host) delay(ctx context.Context, oneWay time.Duration) (stop func() error, err error) {
	suffix := h.veth()[1:]
	near, far, bridge := "a"+suffix, "b"+suffix, "d"+suffix
	ns := h.lab.bridgeNS()
	restore := func() error {
		return script(context.WithoutCancel(ctx), `
ip -n "$1" link set "$2" master br0
ip -n "$1" link del "$3" 2>/dev/null || :`, ns, h.veth(), bridge)
	}
	taps, err := openTAPs(filepath.Join(netnsDir, ns), near, far)
	if err != nil {
		return nil, err
	}
	l := newDelayLine(taps[0], taps[1], oneWay)
	stop = func() error { l.stop(); return restore() }
	err = script(ctx, `
ip -n "$1" link del "$5" 2>/dev/null || :
ip -n "$1" link add "$5" type bridge
ip -n "$1" link set "$5" up
ip -n "$1" link set "$2" txqueuelen 10000 master br0 up
ip -n "$1" link set "$3" txqueuelen 10000 master "$5" up
ip -n "$1" link set "$4" master "$5"`, ns, near, far, h.veth(), bridge)
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// openTAPs opens TAP devices of a network namespace. They exist for as long as they are open.
func openTAPs(netns string, names ...string) ([]*os.File, error) {
	var taps []*os.File
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and the namespace with it.
		runtime.LockOSThread()
		result <- func() error {
			f, err := os.Open(netns)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			for _, name := range names {
				tap, err := openTAP(name)
				if err != nil {
					return fmt.Errorf("open TAP device %q: %w", name, err)
				}
				taps = append(taps, tap)
			}
			return nil
		}()
	}()
	if err := <-result; err != nil {
		for _, tap := range taps {
			tap.Close()
		}
		return nil, err
	}
	return taps, nil
}

// openTAP asks for frames as the kernel has them, unsegmented and without checksums, with a header that says so: a line of single
// packets would take a processor of its own at a gigabit.
func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// delayLine hands frames on between two devices, a fixed time after each came.
type delayLine struct {
	a, b *os.File
	done sync.WaitGroup
}

func newDelayLine(a, b *os.File, oneWay time.Duration) *delayLine {
	l := &delayLine{a: a, b: b}
	for _, way := range [][2]*os.File{{a, b}, {b, a}} {
		q := &delayQueue{}
		q.changed.L = &q.mu
		l.done.Go(func() { q.fill(way[0], oneWay) })
		l.done.Go(func() { q.drain(way[1]) })
	}
	return l
}

// stop closes the devices, which ends those who read them.
func (l *delayLine) stop() {
	l.a.Close()
	l.b.Close()
	l.done.Wait()
}

type delayedFrame struct {
	due  time.Time
	data []byte
}

// delayQueue is one direction of a line.
type delayQueue struct {
	mu      sync.Mutex
	changed sync.Cond
	frames  []delayedFrame
	bytes   int
	ended   bool
}

// fill reads frames until the device is closed. What does not fit is lost, as on any link.
func (q *delayQueue) fill(from *os.File, oneWay time.Duration) {
	buffer := make([]byte, maxFrame)
	for {
		n, err := from.Read(buffer)
		// A device that is not up yet, or no more, has nothing to read and says so.
		if err != nil && !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EBADFD) {
			break
		}
		if n > 0 {
			q.put(delayedFrame{due: time.Now().Add(oneWay), data: append([]byte(nil), buffer[:n]...)})
		} else {
			time.Sleep(time.Millisecond)
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.changed.Signal()
}

func (q *delayQueue) put(f delayedFrame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes+len(f.data) > maxDelayed {
		return
	}
	q.bytes += len(f.data)
	q.frames = append(q.frames, f)
	q.changed.Signal()
}

// drain writes frames when they are due. The thread sleeps by itself: the timers of the runtime are a millisecond late when
// it is idle, which is as long as the shortest delay asked for.
func (q *delayQueue) drain(to *os.File) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		f, ok := q.take()
		if !ok {
			return
		}
		if left := time.Until(f.due); left > 0 {
			ts := unix.NsecToTimespec(left.Nanoseconds())
			_ = unix.Nanosleep(&ts, nil) // a signal ends it early, by less than matters
		}
		_, _ = to.Write(f.data) // lost, as on any link
	}
}

func (q *delayQueue) take() (delayedFrame, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.frames) == 0 {
		if q.ended {
			return delayedFrame{}, false
		}
		q.changed.Wait()
	}
	f := q.frames[0]
	q.frames[0].data = nil
	q.frames = q.frames[1:]
	q.bytes -= len(f.data)
	return f, true
}
