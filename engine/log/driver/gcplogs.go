package driver

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	ctrlog "lighter/engine/log"
	"lighter/engine/log/delivery"
)

var gcpKeys = []string{
	"gcp-project", "gcp-log-cmd", "gcp-meta-zone", "gcp-meta-name", "gcp-meta-id", "labels", "labels-regex", "env", "env-regex",
}

const (
	gcpEndpoint = "https://logging.googleapis.com"
	gcpScope    = "https://www.googleapis.com/auth/logging.write"
	gcpLog      = "gcplogs-docker-driver"
)

// gcplogs writes entries to Google Cloud Logging, over its REST interface. The
// environment variable GCPLOGS_ENDPOINT takes the place of the service's address.
type gcplogs struct {
	client    *http.Client
	endpoint  string
	project   string
	token     gcpToken
	resource  map[string]any
	instance  *gcpInstance
	container gcpContainer
}

type gcpInstance struct {
	Zone string `json:"zone,omitempty"`
	Name string `json:"name,omitempty"`
	ID   string `json:"id,omitempty"`
}

type gcpContainer struct {
	Name      string            `json:"name,omitempty"`
	ID        string            `json:"id,omitempty"`
	ImageName string            `json:"imageName,omitempty"`
	ImageID   string            `json:"imageId,omitempty"`
	Created   time.Time         `json:"created"`
	Command   string            `json:"command,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
}

func openGCP(ctx context.Context, info Info) (delivery.Sink, error) {
	opts := info.Options
	g := &gcplogs{
		client: &http.Client{Timeout: requestTimeout}, endpoint: gcpEndpoint, project: opts["gcp-project"],
		container: gcpContainer{
			Name: "/" + info.Name, ID: info.ID, ImageName: info.ImageName, ImageID: info.ImageID,
			Created: info.Created, Metadata: info.Attributes(nil),
		},
	}
	if v := os.Getenv("GCPLOGS_ENDPOINT"); v != "" {
		g.endpoint = strings.TrimSuffix(v, "/")
	}
	if opts["gcp-log-cmd"] == "true" {
		g.container.Command = info.Command
	}
	g.token.client = g.client
	if err := g.token.load(); err != nil {
		return nil, fmt.Errorf("unable to connect or authenticate with Google Cloud Logging: %w", err)
	}
	if g.token.account == nil { // then it can only be the instance's own
		g.instance = gcpMetadata(ctx, g.client)
		if g.project == "" {
			project, err := gcpGet(ctx, g.client, "project/project-id")
			if err == nil {
				g.project = string(project)
			}
		}
	}
	if g.project == "" {
		return nil, errors.New("No project was specified and couldn't read project from the metadata server. Please specify a project") //nolint:staticcheck // Docker's text
	}
	if own := (gcpInstance{opts["gcp-meta-zone"], opts["gcp-meta-name"], opts["gcp-meta-id"]}); g.instance == nil && own != (gcpInstance{}) {
		g.instance = &own
	}
	g.resource = map[string]any{"type": "global"}
	if g.instance != nil {
		g.resource = map[string]any{"type": "gce_instance", "labels": map[string]string{"instance_id": g.instance.ID, "zone": g.instance.Zone}}
	}
	// An entry of no text shows that the service is there and lets us write.
	if err := g.write(ctx, []map[string]any{{"textPayload": "ping", "logName": g.logName("ping")}}, true); err != nil {
		return nil, fmt.Errorf("unable to connect or authenticate with Google Cloud Logging: %w", err)
	}
	return g, nil
}

func (g *gcplogs) logName(name string) string { return "projects/" + g.project + "/logs/" + name }

// Close implements delivery.Sink.
func (g *gcplogs) Close() error {
	g.client.CloseIdleConnections()
	return nil
}

// Send implements delivery.Sink. An entry has an id made of its place, so that
// one that is sent twice is stored once.
func (g *gcplogs) Send(ctx context.Context, entries []ctrlog.Entry) (int, error) {
	var list []map[string]any
	for i, e := range entries {
		if len(e.Text) == 0 {
			continue
		}
		stamp := e.Time.UTC().Format(time.RFC3339Nano)
		list = append(list, map[string]any{
			"timestamp": stamp, "insertId": hexHash(fmt.Appendf(nil, "%s %s %d %s", g.container.ID, stamp, i, e.Text))[:32],
			"jsonPayload": map[string]any{"instance": g.instance, "container": g.container, "message": string(e.Text)},
		})
	}
	if len(list) > 0 {
		if err := g.write(ctx, list, false); err != nil {
			return 0, err
		}
	}
	return len(entries), nil
}

func (g *gcplogs) write(ctx context.Context, entries []map[string]any, dryRun bool) error {
	body, err := json.Marshal(map[string]any{
		"logName": g.logName(gcpLog), "resource": g.resource, "entries": entries, "dryRun": dryRun,
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.endpoint+"/v2/entries:write", bytes.NewReader(body))
	if err != nil {
		return err
	}
	token, err := g.token.get(ctx)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	_, err = doSmall(g.client, req)
	return err
}

// gcpToken is an access token: of the service account whose file
// GOOGLE_APPLICATION_CREDENTIALS names, or of the instance.
type gcpToken struct {
	client  *http.Client
	account *gcpAccount // nil for the instance's
	key     *rsa.PrivateKey
	token   string
	expires time.Time
}

type gcpAccount struct {
	Type         string `json:"type"`
	ClientEmail  string `json:"client_email"`
	PrivateKeyID string `json:"private_key_id"`
	PrivateKey   string `json:"private_key"`
	TokenURI     string `json:"token_uri"`
}

func (t *gcpToken) load() error {
	path := os.Getenv("GOOGLE_APPLICATION_CREDENTIALS")
	if path == "" {
		return nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var a gcpAccount
	if err := json.Unmarshal(raw, &a); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if a.Type != "service_account" {
		return fmt.Errorf("read %s: credentials of type %q: only service_account is known", path, a.Type)
	}
	block, _ := pem.Decode([]byte(a.PrivateKey))
	if block == nil {
		return fmt.Errorf("read %s: no private key", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	rsaKey, ok := key.(*rsa.PrivateKey)
	if !ok {
		return fmt.Errorf("read %s: the private key is not an RSA key", path)
	}
	if a.TokenURI == "" {
		a.TokenURI = "https://oauth2.googleapis.com/token"
	}
	t.account, t.key = &a, rsaKey
	return nil
}

func (t *gcpToken) get(ctx context.Context) (string, error) {
	if t.token != "" && time.Until(t.expires) > time.Minute {
		return t.token, nil
	}
	var raw []byte
	var err error
	if t.account != nil {
		raw, err = t.exchange(ctx)
	} else {
		raw, err = gcpGet(ctx, t.client, "instance/service-accounts/default/token")
	}
	if err != nil {
		return "", fmt.Errorf("get access token: %w", err)
	}
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.AccessToken == "" {
		return "", errors.New("get access token: the answer holds none")
	}
	t.token, t.expires = answer.AccessToken, time.Now().Add(time.Duration(answer.ExpiresIn)*time.Second)
	return t.token, nil
}

// exchange trades an assertion signed with the account's key for a token: RFC
// 7523.
func (t *gcpToken) exchange(ctx context.Context) ([]byte, error) {
	now := time.Now()
	part := func(v any) (string, error) {
		b, err := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b), err
	}
	head, err := part(map[string]string{"alg": "RS256", "typ": "JWT", "kid": t.account.PrivateKeyID})
	if err != nil {
		return nil, err
	}
	claims, err := part(map[string]any{
		"iss": t.account.ClientEmail, "scope": gcpScope, "aud": t.account.TokenURI, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(head + "." + claims))
	sig, err := rsa.SignPKCS1v15(rand.Reader, t.key, crypto.SHA256, sum[:])
	if err != nil {
		return nil, err
	}
	form := url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"},
		"assertion":  {head + "." + claims + "." + base64.RawURLEncoding.EncodeToString(sig)},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.account.TokenURI, io.NopCloser(strings.NewReader(form.Encode())))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return doSmall(t.client, req)
}

func gcpGet(ctx context.Context, client *http.Client, path string) ([]byte, error) {
	host := os.Getenv("GCE_METADATA_HOST")
	if host == "" {
		host = "169.254.169.254"
	}
	return getSmall(ctx, client, "http://"+host+"/computeMetadata/v1/"+path, http.Header{"Metadata-Flavor": {"Google"}})
}

// gcpMetadata returns the instance that this is, nil when it is none.
func gcpMetadata(ctx context.Context, client *http.Client) *gcpInstance {
	var in gcpInstance
	for path, to := range map[string]*string{"instance/zone": &in.Zone, "instance/name": &in.Name, "instance/id": &in.ID} {
		v, err := gcpGet(ctx, client, path)
		if err != nil {
			return nil
		}
		*to = string(v[bytes.LastIndexByte(v, '/')+1:])
	}
	return &in
}
