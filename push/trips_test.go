package push

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// slowLink is a link to a host whose round trip is far longer than what the host needs to answer, and that counts them: what a side sends has the number
// of what it was handed last, and what the host sends counts one more. So things that are said at once count once.
type slowLink struct {
	listener net.Listener
	target   string
	delay    time.Duration

	mu sync.Mutex
	// heard is the highest number that the operator was handed, told the highest that the host was, both over the newest connection.
	heard, told int
	trace       []string
	began       time.Time
}

// oneWay is half of a slow link's round trip.
const oneWay = 150 * time.Millisecond

func newSlowLink(t *testing.T, h *host) *slowLink {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &slowLink{listener: listener, target: h.address(), delay: oneWay}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			done.Go(func() { l.join(in) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		done.Wait()
	})
	return l
}

func (l *slowLink) through(spec HostSpec) HostSpec {
	spec.Target.Port = l.listener.Addr().(*net.TCPAddr).Port
	return spec
}

func (l *slowLink) join(in net.Conn) {
	out, err := net.Dial("tcp", l.target)
	if err != nil {
		in.Close()
		return
	}
	l.mu.Lock()
	l.heard, l.told, l.trace, l.began = 0, 0, nil, time.Now()
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.carry(out, in, &l.heard, &l.told, 0, "-> ") })
	both.Go(func() { l.carry(in, out, &l.told, &l.heard, 1, "<- ") })
	both.Wait()
}

// parcel is what was sent at once.
type parcel struct {
	data   []byte
	number int
	due    time.Time
}

// carry brings what one side sends to the other, a while later.
func (l *slowLink) carry(to, from net.Conn, latest, reached *int, more int, sign string) {
	parcels := make(chan parcel, 1024)
	go func() {
		defer close(parcels)
		for {
			buf := make([]byte, 32<<10)
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			l.mu.Lock()
			p := parcel{buf[:n], *latest + more, time.Now().Add(l.delay)}
			l.trace = append(l.trace, fmt.Sprintf("%6dms %s%2d %5d bytes", time.Since(l.began).Milliseconds(), sign, p.number, n))
			l.mu.Unlock()
			parcels <- p
		}
	}()
	for p := range parcels {
		time.Sleep(time.Until(p.due))
		l.mu.Lock()
		*reached = max(*reached, p.number)
		l.mu.Unlock()
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	for range parcels {
	}
}

// trips is how many round trips the newest connection has taken so far, with that of TCP.
func (l *slowLink) trips() (int, []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return 1 + l.heard, append([]string(nil), l.trace...)
}

// TestRoundTripsOfAConnection counts those until a session can be used. Of them, x/crypto's login takes seven: one for TCP, the greeting, the key exchange, and four
// for the authentication, where it asks for the methods and whether the key would do.
func TestRoundTripsOfAConnection(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	connectOnce := func(t *testing.T, user string) { push(t, connect(t, l.connector(), h.spec(user)), l.chain(t, 1, 10)) }
	connectOnce(t, "root")
	for rule, c := range map[string]struct {
		user  string
		trips int
	}{
		"root":                    {"root", 11},
		"sudo without a password": {"free", 11},
		"sudo with a password":    {"sudoer", 12},
		"doas, on a terminal":     {"freedoas", 12},
	} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			link := newSlowLink(t, h)
			// A host that answers later than a round trip makes the count too high, never too low.
			err := errors.New("not tried")
			for try := 0; try < 5 && err != nil; try++ {
				p := &typist{answers: []string{"right"}}
				conn := l.connector()
				conn.Password = p.ask
				spec := link.through(h.spec(c.user))
				if c.user == "freedoas" {
					spec.Elevation = elevationDoas
				}
				s, failure := conn.Connect(t.Context(), spec)
				if failure != nil {
					t.Fatal(failure)
				}
				n, trace := link.trips()
				if err = nil; n > c.trips {
					err = fmt.Errorf("%d round trips, want at most %d: %q", n, c.trips, trace)
				}
				for _, x := range trace {
					t.Log(x)
				}
				t.Logf("%d trips", n)
				if failure := s.Close(); failure != nil {
					t.Error(failure)
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}
