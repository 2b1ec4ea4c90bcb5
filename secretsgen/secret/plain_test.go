package secret_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"fleet/secretsgen/secret"
)

const hunter = "hunter2-und-mehr"

// holder keeps plaintext where fmt cannot call its methods.
type holder struct {
	name   string
	hidden secret.Plain
	list   []secret.Plain
	by     map[string]secret.Plain
}

func TestPlaintextShowsInNoWayOfPrinting(t *testing.T) {
	p := secret.NewPlain([]byte(hunter))
	h := holder{"x", p, []secret.Plain{p}, map[string]secret.Plain{"a": p}}
	wrapped := fmt.Errorf("open %s: %w %v", p, errors.New("no"), p)
	values := []any{p, &p, h, &h, []secret.Plain{p}, map[string]secret.Plain{"a": p}, []any{p, h}, struct{ Value secret.Plain }{p}, wrapped, [1]secret.Plain{p}}
	var out bytes.Buffer
	for _, value := range values {
		for _, verb := range "vsqxXdobcUtpeEfFgGTw" {
			for _, flags := range []string{"", "+", "#", " ", "0", "-30", ".99", "+#"} {
				fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", value)
			}
		}
		fmt.Fprintln(&out, value)
		fmt.Fprint(&out, value)
		logEveryWay(&out, value)
		encodeEveryWay(t, &out, value)
	}
	checkHides(t, out.String())
}

// logEveryWay logs a value with logrus and slog: as a field, an error, an argument, with both formatters and all levels that return.
func logEveryWay(out *bytes.Buffer, value any) {
	for _, formatter := range []logrus.Formatter{&logrus.TextFormatter{}, &logrus.TextFormatter{ForceColors: true, ForceQuote: true}, &logrus.JSONFormatter{PrettyPrint: true}} {
		log := logrus.New()
		log.SetOutput(out)
		log.SetFormatter(formatter)
		log.SetLevel(logrus.TraceLevel)
		entry := log.WithField("value", value).WithFields(logrus.Fields{"more": value, "list": []any{value}})
		if err, ok := value.(error); ok {
			entry = entry.WithError(err)
		}
		for _, level := range []logrus.Level{logrus.ErrorLevel, logrus.WarnLevel, logrus.InfoLevel, logrus.DebugLevel, logrus.TraceLevel} {
			entry.Log(level, "message ", value)
			entry.Logf(level, "message %v %+v %#v %s %x", value, value, value, value, value)
			entry.Logln(level, value)
		}
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(out, nil), slog.NewJSONHandler(out, nil)} {
		slog.New(handler).Info("message", "value", value, "group", slog.GroupValue(slog.Any("value", value)))
	}
}

func encodeEveryWay(t *testing.T, out *bytes.Buffer, value any) {
	t.Helper()
	if data, err := json.Marshal(value); err == nil {
		out.Write(data)
	}
	if data, err := json.MarshalIndent(map[string]any{"value": value}, "", " "); err == nil {
		out.Write(data)
	}
	if data, err := xml.Marshal(value); err == nil {
		out.Write(data)
	}
}

// checkHides looks for the plaintext in every spelling that printing gives to bytes.
func checkHides(t *testing.T, out string) {
	t.Helper()
	decimal := strings.Trim(fmt.Sprint([]byte(hunter)), "[]")
	spellings := []string{
		hunter, hunter[:6], hex.EncodeToString([]byte(hunter)), decimal, strings.ReplaceAll(decimal, " ", ", "), "104", "0x68", "0150",
		base64.StdEncoding.EncodeToString([]byte(hunter))[:12], fmt.Sprintf("% x", hunter), fmt.Sprintf("% X", hunter), fmt.Sprintf("%b", []byte(hunter[:2])), fmt.Sprintf("%U", []rune(hunter)[:2]),
	}
	for _, spelling := range spellings {
		if spelling == "104" || spelling == "0x68" || spelling == "0150" {
			spelling = " " + spelling + " " // as an element, not a part of an address
		}
		if i := strings.Index(strings.ToLower(out), strings.ToLower(spelling)); i >= 0 {
			t.Errorf("the plaintext was printed as %q in …%q…", spelling, out[max(0, i-80):min(len(out), i+80)])
		}
	}
	if !strings.Contains(out, "[redacted]") {
		t.Error("nothing was printed in its place")
	}
}

func TestPlaintextIsNotReadBackFromItsRedaction(t *testing.T) {
	var p secret.Plain
	if err := decode(`"[redacted]"`, &p); err == nil {
		t.Errorf("read %d bytes", p.Len())
	}
}

func decode(text string, into any) error { return json.Unmarshal([]byte(text), into) }

func TestWipingReachesEveryCopyOfTheValue(t *testing.T) {
	value := []byte(hunter)
	p := secret.NewPlain(value)
	q := p
	if p.Len() != len(hunter) || string(q.Bytes()) != hunter {
		t.Fatal("the value is not what was given")
	}
	p.Wipe()
	if string(q.Bytes()) != strings.Repeat("\x00", len(hunter)) || !bytes.Equal(value, make([]byte, len(hunter))) {
		t.Error("a copy still has the value")
	}
	var zero secret.Plain
	zero.Wipe()
	if zero.Len() != 0 || zero.Bytes() != nil || zero.String() != "[redacted]" {
		t.Error("the zero value is not empty")
	}
}
