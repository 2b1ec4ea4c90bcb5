package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"fleet/closure/storepath"
	"fleet/push/proto"
)

const (
	// maxOffers is how many offers a session makes at a time: each packs, which takes memory.
	maxOffers = 8
	// maxStrangers is how many connections may be open at a time whose peer has not proved its key.
	maxStrangers = 32
	// offerLevel is zstd's level for what goes to a host nearby.
	offerLevel = 1
)

// offer lets one peer take paths, once, until the stream ends.
type offer struct {
	paths map[storepath.Path]storepath.Info
	// taken gets the connection of the peer.
	taken chan *tls.Conn
}

// door is a listener that the offers of one port share.
type door struct {
	listener net.Listener
	// ctx ends with the listener.
	ctx    context.Context
	cancel context.CancelFunc
	key    tunnelKey
	port   int
	// strangers holds a token for each connection whose peer is not known yet.
	strangers chan struct{}
	work      sync.WaitGroup

	mu sync.Mutex
	// offers are by the hash of the peer's key; one that was taken has gone.
	offers map[string]*offer
	// users are those who use the listener. The session locks it.
	users int
}

// offer serves paths to the one peer that has the key, until the client ends its data or the peer has what it wanted.
func (s *session) offer(ctx context.Context, req proto.OfferRequest, stream *proto.Stream) (result proto.ImportResult, err error) {
	o, err := s.newOffer(ctx, req)
	if err != nil {
		return result, err
	}
	d, err := s.openDoor(req.Port)
	if err != nil {
		return result, err
	}
	defer s.leaveDoor(req.Port, d)
	if err := d.add(req.Peer, o); err != nil {
		return result, err
	}
	defer d.remove(req.Peer, o)
	line, err := json.Marshal(proto.OfferReady{Port: d.port, Key: d.key.hash, Addresses: ownAddresses()})
	if err != nil {
		return result, err
	}
	if _, err := stream.Write(append(line, '\n')); err != nil {
		return result, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, stream) // its end is that of the offer
		cancel()
	}()
	select {
	case conn := <-o.taken:
		return s.serveOffer(ctx, o, conn)
	case <-ctx.Done():
		return result, nil
	}
}

// newOffer checks what is offered. The session protects it.
func (s *session) newOffer(ctx context.Context, req proto.OfferRequest) (*offer, error) {
	if req.Port < 0 || req.Port > 65535 {
		return nil, proto.Errorf(proto.CodeUsage, "offer: %d is no port", req.Port)
	}
	if !isKeyHash(req.Peer) {
		return nil, proto.Errorf(proto.CodeUsage, "offer: %.80q is no hash of a key", req.Peer)
	}
	paths, err := parseBases(req.Paths)
	if err != nil {
		return nil, err
	}
	infos, err := s.validInfos(ctx, paths)
	if err != nil {
		return nil, err
	}
	o := &offer{paths: make(map[storepath.Path]storepath.Info, len(infos)), taken: make(chan *tls.Conn, 1)}
	for _, info := range infos {
		o.paths[info.Path] = info
	}
	return o, nil
}

// openDoor returns the listener of a port, made by the first offer that needs it.
func (s *session) openDoor(port int) (*door, error) {
	s.doorsMu.Lock()
	defer s.doorsMu.Unlock()
	if d := s.doors[port]; d != nil {
		if d.users >= maxOffers {
			return nil, proto.Errorf(proto.CodeUsage, "offer: %d stand already", maxOffers)
		}
		d.users++
		return d, nil
	}
	key, err := newTunnelKey()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		e := proto.Errorf(proto.CodeInternal, "offer: %v", err)
		e.Remedy = "free the port on the relay, or set another one: deploy.relayPort"
		return nil, e
	}
	d := &door{listener: listener, key: key, port: listener.Addr().(*net.TCPAddr).Port, offers: make(map[string]*offer), users: 1,
		strangers: make(chan struct{}, maxStrangers)}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if s.doors == nil {
		s.doors = make(map[int]*door)
	}
	s.doors[port] = d
	d.work.Go(d.accept)
	return d, nil
}

// leaveDoor closes the listener behind the last offer.
func (s *session) leaveDoor(port int, d *door) {
	s.doorsMu.Lock()
	defer s.doorsMu.Unlock()
	if d.users--; d.users > 0 {
		return
	}
	delete(s.doors, port)
	d.cancel()
	_ = d.listener.Close() // whoever accepts sees that
	d.work.Wait()
}

func (d *door) add(peer string, o *offer) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.offers[peer] != nil {
		return proto.Errorf(proto.CodeUsage, "offer: the peer has one already")
	}
	d.offers[peer] = o
	return nil
}

// remove ends an offer, and closes a connection that nobody has taken over.
func (d *door) remove(peer string, o *offer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.offers[peer] == o {
		delete(d.offers, peer)
	}
	select {
	case conn := <-o.taken:
		_ = conn.Close()
	default:
	}
}

// known says whether an offer waits for that peer.
func (d *door) known(peer string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.offers[peer] != nil
}

// accept lets peers prove their keys, until the listener is closed.
func (d *door) accept() {
	for {
		conn, err := d.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // the host is short of something, such as descriptors
			continue
		}
		select {
		case d.strangers <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		d.work.Go(func() {
			defer func() { <-d.strangers }()
			d.admit(conn)
		})
	}
}

// admit gives a connection to the offer that its peer's key belongs to. Nobody else can take that one then.
func (d *door) admit(raw net.Conn) {
	ctx, cancel := context.WithTimeout(d.ctx, handshakeTime)
	defer cancel()
	conn := tls.Server(raw, d.key.config(d.known))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return
	}
	peer := keyHash(conn.ConnectionState().PeerCertificates[0])
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.offers[peer]
	if o == nil {
		_ = raw.Close()
		return
	}
	delete(d.offers, peer)
	o.taken <- conn // it has room for one, and one comes
}

// serveOffer sends the peer what it wants of the offer.
func (s *session) serveOffer(ctx context.Context, o *offer, conn *tls.Conn) (result proto.ImportResult, err error) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	wanted, err := proto.ReadWanted(bufio.NewReaderSize(newSteady(conn), 64<<10), len(o.paths))
	if err != nil {
		return result, err
	}
	infos := make([]storepath.Info, len(wanted))
	for i, name := range wanted {
		path, err := storepath.ParseBase(name)
		if err != nil {
			return result, err
		}
		info, offered := o.paths[path]
		if !offered {
			return result, pathError(proto.CodeForbidden, path.String(), "the peer wants %s, which is not offered to it", path)
		}
		delete(o.paths, path)
		infos[i] = info
	}
	result, err = s.exportInfos(ctx, infos, offerLevel, patient{conn})
	// The end of the stream is ours alone to say: a cut looks different to the peer.
	return result, errors.Join(err, conn.CloseWrite())
}

// ownAddresses are the addresses by which others may reach the host.
func ownAddresses() []string {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil // the plan has one, too
	}
	var texts []string
	for _, one := range list {
		prefix, err := netip.ParsePrefix(one.String())
		if err == nil && prefix.Addr().IsGlobalUnicast() && len(texts) < proto.MaxRelayAddresses {
			texts = append(texts, prefix.Addr().String())
		}
	}
	return texts
}
