package material

import (
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"strings"
)

// ParseSubject reads the subject of a certificate: a JSON object of attributes (CN, O, OU, C, ST, L, STREET, POSTALCODE, SERIALNUMBER), each a text or,
// but for CN and SERIALNUMBER, a list of texts.
func ParseSubject(text string) (pkix.Name, error) {
	var attributes map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &attributes); err != nil || attributes == nil {
		return pkix.Name{}, fmt.Errorf(`parse subject %.200q: it is no JSON object such as {"CN": "example.org"}`, text)
	}
	var name pkix.Name
	lists := map[string]*[]string{
		"O": &name.Organization, "OU": &name.OrganizationalUnit, "C": &name.Country, "ST": &name.Province, "L": &name.Locality,
		"STREET": &name.StreetAddress, "POSTALCODE": &name.PostalCode,
	}
	texts := map[string]*string{"CN": &name.CommonName, "SERIALNUMBER": &name.SerialNumber}
	for key, value := range attributes {
		values, err := oneOrMore(value)
		if err != nil {
			return pkix.Name{}, fmt.Errorf("parse subject: attribute %.40q: %w", key, err)
		}
		switch {
		case texts[key] != nil && len(values) == 1:
			*texts[key] = values[0]
		case lists[key] != nil:
			*lists[key] = values
		default:
			return pkix.Name{}, fmt.Errorf("parse subject: attribute %.40q is not known, or cannot be a list", key)
		}
	}
	if name.String() == "" {
		return pkix.Name{}, errors.New("parse subject: it is empty")
	}
	return name, nil
}

func oneOrMore(value json.RawMessage) ([]string, error) {
	var one string
	if json.Unmarshal(value, &one) == nil {
		return []string{one}, checkTexts(one)
	}
	var several []string
	if json.Unmarshal(value, &several) != nil || len(several) == 0 {
		return nil, errors.New("it is neither a text nor a list of texts")
	}
	return several, checkTexts(several...)
}

func checkTexts(texts ...string) error {
	for _, text := range texts {
		if text == "" || len(text) > 256 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return fmt.Errorf("%.80q is empty, longer than 256 bytes or not printable", text)
		}
	}
	return nil
}

// Names are the alternative names of a certificate's subject.
type Names struct {
	DNS    []string
	IPs    []net.IP
	URIs   []*url.URL
	Emails []string
}

// ParseNames reads alternative names: a JSON list of "DNS:…", "IP:…", "URI:…" and "email:…".
func ParseNames(text string) (Names, error) {
	var list []string
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return Names{}, fmt.Errorf(`parse alternative names %.200q: they are no JSON list such as ["DNS:example.org"]`, text)
	}
	var names Names
	for _, entry := range list {
		kind, value, _ := strings.Cut(entry, ":")
		if err := names.add(kind, value); err != nil {
			return Names{}, fmt.Errorf("parse alternative name %.200q: %w", entry, err)
		}
	}
	return names, nil
}

func (n *Names) add(kind, value string) error {
	switch kind {
	case "DNS":
		if !isDNSName(value) {
			return errors.New("it is no name of the DNS")
		}
		n.DNS = append(n.DNS, value)
	case "IP":
		ip := net.ParseIP(value)
		if ip == nil {
			return errors.New("it is no IP address")
		}
		n.IPs = append(n.IPs, ip)
	case "URI":
		uri, err := url.Parse(value)
		if err != nil || uri.Scheme == "" {
			return errors.New("it is no URI")
		}
		n.URIs = append(n.URIs, uri)
	case "email":
		address, err := mail.ParseAddress(value)
		if err != nil || address.Address != value {
			return errors.New("it is no mail address")
		}
		n.Emails = append(n.Emails, value)
	default:
		return errors.New(`it begins with none of "DNS:", "IP:", "URI:" and "email:"`)
	}
	return nil
}

// isDNSName takes what certificates are compared with: labels of letters, digits, - and _, of which the first may be *.
func isDNSName(name string) bool {
	if len(name) == 0 || len(name) > 253 {
		return false
	}
	for i, label := range strings.Split(name, ".") {
		if i == 0 && label == "*" {
			continue
		}
		if len(label) == 0 || len(label) > 63 || strings.Trim(label, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" || strings.HasPrefix(label, "-") {
			return false
		}
	}
	return true
}
