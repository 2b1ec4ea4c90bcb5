package push

import (
	"net"
	"sync"
	"testing"
	"time"
)

// slowLink is a link to a host that counts round trips: what the operator sends has the number of what it was handed last, and what the host sends counts one
// more than what that was handed. So what is said at once counts once, and however long a host takes to answer, that is one round trip. A round trip takes
// so long that answers to what was asked at once are under way before anything follows the first of them.
type slowLink struct {
	listener net.Listener
	target   string

	mu sync.Mutex
	// heard is the highest number that the operator was handed, told the highest that the host was, both over the newest connection.
	heard, told int
	newest      net.Conn
}

const (
	// oneWay is half of a slow link's round trip.
	oneWay = 100 * time.Millisecond
	// remark is the longest of SSH's packets that nobody answers: the end of an input, the end of a channel, more room for data. The host may
	// say something else after one, and that is no answer.
	remark = 36
)

func newSlowLink(t *testing.T, h *host) *slowLink {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &slowLink{listener: listener, target: h.address()}
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
	l.heard, l.told, l.newest = 0, 0, in
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.carry(out, in, &l.heard, &l.told, 0) })
	both.Go(func() { l.carry(in, out, &l.told, &l.heard, 1) })
	both.Wait()
}

// parcel is what was sent at once.
type parcel struct {
	data   []byte
	number int
	due    time.Time
}

// carry brings what one side sends to the other, a while later.
func (l *slowLink) carry(to, from net.Conn, latest, reached *int, more int) {
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
			p := parcel{buf[:n], *latest + more, time.Now().Add(oneWay)}
			if more == 0 && n <= remark {
				p.number = 0
			}
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
func (l *slowLink) trips() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return 1 + l.heard
}

// cut breaks the newest connection.
func (l *slowLink) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest.Close()
}

// TestRoundTripsOfAConnection counts those until a session has been made, and until it has a new connection and an answer over that. Of each, x/crypto's login takes
// seven: one for TCP, the greeting, the key exchange, and four for the authentication, where it asks for the methods and whether the key would do.
func TestRoundTripsOfAConnection(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	push(t, connect(t, l.connector(), h.spec("root")), l.chain(t, 1, 10)) // the helper is there now
	for rule, c := range map[string]struct {
		user, elevation string
		made            int
	}{
		"root":                    {"root", elevationAuto, 11},
		"sudo without a password": {"free", elevationAuto, 11},
		"sudo with a password":    {"sudoer", elevationAuto, 12},
		"doas, on a terminal":     {"freedoas", elevationDoas, 12},
	} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			link := newSlowLink(t, h)
			spec := link.through(h.spec(c.user))
			spec.Elevation = c.elevation
			// A machine that is very busy makes a count too high, never too low.
			made, again := 99, 99
			for try := 0; try < 5 && (made > c.made || again > 11); try++ {
				p := &typist{answers: []string{"right"}}
				connector := l.connector()
				connector.Password = p.ask
				s := connect(t, connector, spec)
				made = min(made, link.trips())
				link.cut()
				if _, err := s.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				again = min(again, link.trips())
			}
			if made > c.made || again > 11 {
				t.Errorf("%d round trips, and %d for the second connection; want at most %d and 11", made, again, c.made)
			}
		})
	}
}

func TestConnectWhereTheServerAllowsFewChannels(t *testing.T) {
	l := newLab(t)
	for user, upload := range map[string]bool{"one": false, "two": true} {
		t.Run(user, func(t *testing.T) {
			h := l.host(t, hostOptions{})
			if !upload {
				connect(t, l.connector(), h.spec("root"))
			}
			for range 2 {
				s, err := l.connector().Connect(t.Context(), h.spec(user))
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
