package driver

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// awsSigner signs requests: AWS Signature Version 4.
type awsSigner struct {
	region, service string
	credentials     awsCredentials
}

func (s *awsSigner) sign(ctx context.Context, req *http.Request, body []byte, now time.Time) error {
	keys, err := s.credentials.get(ctx)
	if err != nil {
		return err
	}
	stamp := now.UTC().Format("20060102T150405Z")
	req.Header.Set("X-Amz-Date", stamp)
	if keys.Token != "" {
		req.Header.Set("X-Amz-Security-Token", keys.Token)
	}
	headers := map[string]string{"host": req.URL.Host}
	for name := range req.Header {
		headers[strings.ToLower(name)] = strings.TrimSpace(req.Header.Get(name))
	}
	names := slices.Sorted(maps.Keys(headers))
	var canonical strings.Builder
	fmt.Fprintf(&canonical, "%s\n%s\n%s\n", req.Method, req.URL.EscapedPath(), req.URL.Query().Encode())
	for _, name := range names {
		fmt.Fprintf(&canonical, "%s:%s\n", name, headers[name])
	}
	signed := strings.Join(names, ";")
	fmt.Fprintf(&canonical, "\n%s\n%s", signed, hexHash(body))

	scope := stamp[:8] + "/" + s.region + "/" + s.service + "/aws4_request"
	text := "AWS4-HMAC-SHA256\n" + stamp + "\n" + scope + "\n" + hexHash([]byte(canonical.String()))
	key := []byte("AWS4" + keys.SecretAccessKey)
	for _, part := range strings.Split(scope, "/") {
		key = mac(key, part)
	}
	req.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%x",
		keys.AccessKeyID, scope, signed, mac(key, text)))
	return nil
}

func hexHash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// awsKeysOf are what requests are signed with.
type awsKeysOf struct {
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string
	Token           string
	Expiration      time.Time
}

// awsCredentials finds keys where the AWS tools do: the endpoint of the log
// option, the environment, the shared file, a container's endpoint, the
// instance's role. Those that expire are kept until shortly before.
type awsCredentials struct {
	client   *http.Client
	endpoint string // path of the option awslogs-credentials-endpoint
	kept     awsKeysOf
}

const (
	awsContainerHost = "http://169.254.170.2"
	awsInstanceHost  = "http://169.254.169.254"
)

func (c *awsCredentials) get(ctx context.Context) (awsKeysOf, error) {
	if c.kept.AccessKeyID != "" && (c.kept.Expiration.IsZero() || time.Until(c.kept.Expiration) > 5*time.Minute) {
		return c.kept, nil
	}
	keys, err := c.find(ctx)
	if err != nil {
		return keys, fmt.Errorf("find AWS credentials: %w", err)
	}
	c.kept = keys
	return keys, nil
}

func (c *awsCredentials) find(ctx context.Context) (awsKeysOf, error) {
	if c.endpoint != "" {
		return c.fetch(ctx, awsContainerHost+c.endpoint, nil)
	}
	if id, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"); id != "" && secret != "" {
		return awsKeysOf{AccessKeyID: id, SecretAccessKey: secret, Token: os.Getenv("AWS_SESSION_TOKEN")}, nil
	}
	if keys, err := awsSharedFile(); err == nil {
		return keys, nil
	}
	if path := os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"); path != "" {
		return c.fetch(ctx, awsContainerHost+path, nil)
	}
	if url := os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI"); url != "" {
		return c.fetch(ctx, url, http.Header{"Authorization": {os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN")}})
	}
	token, err := awsInstanceToken(ctx, c.client)
	if err != nil {
		return awsKeysOf{}, err
	}
	base := awsInstanceHost + "/latest/meta-data/iam/security-credentials/"
	role, err := getSmall(ctx, c.client, base, token)
	if err != nil {
		return awsKeysOf{}, err
	}
	return c.fetch(ctx, base+strings.TrimSpace(string(role)), token)
}

func (c *awsCredentials) fetch(ctx context.Context, url string, header http.Header) (awsKeysOf, error) {
	var keys awsKeysOf
	raw, err := getSmall(ctx, c.client, url, header)
	if err != nil {
		return keys, err
	}
	if err := json.Unmarshal(raw, &keys); err != nil || keys.AccessKeyID == "" {
		return keys, fmt.Errorf("%s does not answer with credentials", url)
	}
	return keys, nil
}

// awsSharedFile reads the profile of AWS_PROFILE from the credentials file.
func awsSharedFile() (awsKeysOf, error) {
	path := os.Getenv("AWS_SHARED_CREDENTIALS_FILE")
	if path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return awsKeysOf{}, err
		}
		path = filepath.Join(home, ".aws", "credentials")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return awsKeysOf{}, err
	}
	profile := os.Getenv("AWS_PROFILE")
	if profile == "" {
		profile = "default"
	}
	var keys awsKeysOf
	inside := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			inside = line == "["+profile+"]"
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !inside {
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "aws_access_key_id":
			keys.AccessKeyID = value
		case "aws_secret_access_key":
			keys.SecretAccessKey = value
		case "aws_session_token":
			keys.Token = value
		}
	}
	if keys.AccessKeyID == "" {
		return keys, errors.New("the credentials file has no such profile")
	}
	return keys, nil
}

// metadataTimeout bounds a question to a metadata service, which is near or not
// there at all.
const metadataTimeout = 2 * time.Second

func awsInstanceToken(ctx context.Context, client *http.Client) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, awsInstanceHost+"/latest/api/token", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", "21600")
	token, err := doSmall(client, req)
	if err != nil {
		return nil, err
	}
	return http.Header{"X-Aws-Ec2-Metadata-Token": {string(token)}}, nil
}

func awsInstanceRegion(ctx context.Context, client *http.Client) (string, error) {
	token, err := awsInstanceToken(ctx, client)
	if err != nil {
		return "", err
	}
	region, err := getSmall(ctx, client, awsInstanceHost+"/latest/meta-data/placement/region", token)
	return string(region), err
}

func getSmall(ctx context.Context, client *http.Client, url string, header http.Header) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	return doSmall(client, req)
}

func doSmall(client *http.Client, req *http.Request) ([]byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", req.URL, resp.Status)
	}
	return body, err
}
