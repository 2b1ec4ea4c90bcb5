package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"fleet/push/proto"
)

const (
	// maxHeader and maxBody bound what a server can make us read, in bytes.
	maxHeader = 64 << 10
	maxBody   = 64 << 10
)

// TCP looks whether the address, HOST:PORT, accepts a connection.
func TCP(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// HTTP asks for the URL over a connection of its own, with no proxy, and compares the status. A redirect is an answer and is not followed: where
// it leads is another thing to look at.
func HTTP(ctx context.Context, c proto.HTTPCheck) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return withoutURL(err)
	}
	request.Header.Set("User-Agent", "fleet-helper")
	client := &http.Client{
		Transport: &http.Transport{
			DialContext: new(net.Dialer).DialContext, DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeader,
			TLSHandshakeTimeout: maxTry, ResponseHeaderTimeout: maxTry, ForceAttemptHTTP2: true, ExpectContinueTimeout: time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return withoutURL(err)
	}
	defer response.Body.Close()
	if c.Status == 0 && response.StatusCode/100 == 2 || c.Status == response.StatusCode {
		return nil
	}
	said, _ := io.ReadAll(io.LimitReader(response.Body, maxBody)) // what comes is enough
	return statusError(c, response, string(said))
}

func statusError(c proto.HTTPCheck, response *http.Response, said string) error {
	wanted := "200 to 299"
	if c.Status != 0 {
		wanted = fmt.Sprint(c.Status)
	}
	text := fmt.Sprintf("answered %d, wanted %s", response.StatusCode, wanted)
	if to := response.Header.Get("Location"); to != "" {
		return fmt.Errorf("%s; it leads to %s, and redirects are not followed", text, Clean(shown(to)))
	}
	if last := lastLine(said); last != "" && len(said) < 1000 {
		text += ": " + last
	}
	return errors.New(text)
}

// withoutURL drops the URL from an error: the check names it already, and it may hold a password.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// shown is a URL without its password.
func shown(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "an unreadable URL"
	}
	return u.Redacted()
}
