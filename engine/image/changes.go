package image

import (
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// maxChanges bounds the text of all changes of one request.
const maxChanges = 1 << 20

// ApplyChanges returns cfg changed by the Dockerfile instructions of docker
// commit --change and docker import --change: CMD, ENTRYPOINT, ENV, EXPOSE,
// HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME and WORKDIR. cfg
// itself stays as it is. A change may hold several lines, with comments and
// lines continued by a backslash.
//
// Errors: InvalidArgument.
func ApplyChanges(cfg dockerspec.DockerOCIImageConfig, changes []string) (dockerspec.DockerOCIImageConfig, error) {
	text := strings.Join(changes, "\n")
	if len(text) > maxChanges {
		return cfg, invalid("changes of %d bytes, more than %d", len(text), maxChanges)
	}
	c := changer{cfg: cfg}
	c.cfg.Env = slices.Clone(cfg.Env)
	c.cfg.Labels = maps.Clone(cfg.Labels)
	c.cfg.ExposedPorts = maps.Clone(cfg.ExposedPorts)
	c.cfg.Volumes = maps.Clone(cfg.Volumes)
	c.cfg.OnBuild = slices.Clone(cfg.OnBuild)
	for _, line := range logicalLines(text) {
		if err := c.apply(line); err != nil {
			return cfg, err
		}
	}
	return c.cfg, nil
}

// logicalLines joins continued lines and drops comments and empty lines.
func logicalLines(text string) []string {
	var lines []string
	var cur strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "#") || cur.Len() > 0 && trimmed == "" {
			continue
		}
		if body, ok := strings.CutSuffix(strings.TrimRight(line, " \t"), `\`); ok {
			cur.WriteString(body)
			continue
		}
		cur.WriteString(line)
		if s := strings.TrimSpace(cur.String()); s != "" {
			lines = append(lines, s)
		}
		cur.Reset()
	}
	if s := strings.TrimSpace(cur.String()); s != "" {
		lines = append(lines, s)
	}
	return lines
}

type changer struct {
	cfg    dockerspec.DockerOCIImageConfig
	cmdSet bool // by one of the changes
}

func (c *changer) apply(line string) error {
	word, rest := cutWord(line)
	op := strings.ToUpper(word)
	switch op {
	case "CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR":
	default:
		return invalid("%.64s is not a valid change command", word)
	}
	if rest == "" && op != "CMD" && op != "ENTRYPOINT" {
		return invalid("%s requires an argument", op)
	}
	switch op {
	case "CMD":
		c.cfg.Cmd, c.cmdSet = c.command(rest), true
	case "ENTRYPOINT":
		c.cfg.Entrypoint = c.command(rest)
		if !c.cmdSet {
			c.cfg.Cmd = nil
		}
	case "ENV", "LABEL":
		return c.pairs(op, rest)
	case "EXPOSE":
		return c.expose(rest)
	case "HEALTHCHECK":
		return c.healthcheck(rest)
	case "ONBUILD":
		return c.onbuild(rest)
	case "SHELL":
		list, ok := jsonList(rest)
		if !ok || len(list) == 0 {
			return invalid("SHELL requires the arguments to be in JSON form")
		}
		c.cfg.Shell = list
	case "STOPSIGNAL":
		sig, err := c.one(op, rest)
		if err != nil {
			return err
		}
		c.cfg.StopSignal = sig
	case "USER":
		user, err := c.one(op, rest)
		if err != nil {
			return err
		}
		c.cfg.User = user
	case "VOLUME":
		return c.volume(rest)
	case "WORKDIR":
		dir, err := c.expand(rest)
		if err != nil {
			return err
		}
		if dir == "" {
			return invalid("WORKDIR requires an argument")
		}
		base := c.cfg.WorkingDir
		if base == "" {
			base = "/"
		}
		if !path.IsAbs(dir) {
			dir = path.Join(base, dir)
		}
		c.cfg.WorkingDir = path.Clean(dir)
	}
	return nil
}

func cutWord(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// jsonList parses the exec form.
func jsonList(s string) ([]string, bool) {
	if !strings.HasPrefix(s, "[") {
		return nil, false
	}
	list := []string{}
	if err := json.Unmarshal([]byte(s), &list); err != nil {
		return nil, false
	}
	return list, true
}

// command is the exec form as it is, the shell form with the shell before it.
func (c *changer) command(s string) []string {
	if list, ok := jsonList(s); ok {
		return list
	}
	if s == "" {
		return nil
	}
	shell := c.cfg.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), s)
}

func (c *changer) one(op, s string) (string, error) {
	words, err := c.words(s)
	if err != nil {
		return "", err
	}
	if len(words) != 1 || words[0] == "" {
		return "", invalid("%s requires exactly one argument", op)
	}
	return words[0], nil
}

// pairs handles ENV and LABEL: "k=v k2=v2" or the old "k v".
func (c *changer) pairs(op, rest string) error {
	key, _ := cutWord(rest)
	var kv [][2]string
	if !strings.Contains(key, "=") {
		k, v := cutWord(rest)
		if v == "" {
			return invalid("%s must have two arguments", op)
		}
		v, err := c.expand(v)
		if err != nil {
			return err
		}
		kv = append(kv, [2]string{k, v})
	} else {
		words, err := c.words(rest)
		if err != nil {
			return err
		}
		for _, w := range words {
			k, v, ok := strings.Cut(w, "=")
			if !ok {
				return invalid("syntax error - can't find = in %.64q. Must be of the form: name=value", w)
			}
			kv = append(kv, [2]string{k, v})
		}
	}
	for _, p := range kv {
		if p[0] == "" {
			return invalid("%s names can not be blank", op)
		}
		if op == "LABEL" {
			if c.cfg.Labels == nil {
				c.cfg.Labels = map[string]string{}
			}
			c.cfg.Labels[p[0]] = p[1]
			continue
		}
		i := slices.IndexFunc(c.cfg.Env, func(e string) bool {
			k, _, _ := strings.Cut(e, "=")
			return k == p[0]
		})
		if i < 0 {
			i = len(c.cfg.Env)
			c.cfg.Env = append(c.cfg.Env, "")
		}
		c.cfg.Env[i] = p[0] + "=" + p[1]
	}
	return nil
}

func (c *changer) expose(rest string) error {
	words, err := c.words(rest)
	if err != nil {
		return err
	}
	for _, w := range words {
		ports, proto, ok := strings.Cut(strings.ToLower(w), "/")
		if !ok {
			proto = "tcp"
		}
		first, last, isRange := strings.Cut(ports, "-")
		if !isRange {
			last = first
		}
		lo, err1 := strconv.ParseUint(first, 10, 16)
		hi, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || hi < lo || proto != "tcp" && proto != "udp" && proto != "sctp" {
			return invalid("invalid containerPort: %.64s", w)
		}
		if c.cfg.ExposedPorts == nil {
			c.cfg.ExposedPorts = map[string]struct{}{}
		}
		for p := lo; p <= hi; p++ {
			c.cfg.ExposedPorts[strconv.FormatUint(p, 10)+"/"+proto] = struct{}{}
		}
	}
	return nil
}

func (c *changer) volume(rest string) error {
	list, ok := jsonList(rest)
	if !ok {
		var err error
		if list, err = c.words(rest); err != nil {
			return err
		}
	}
	if c.cfg.Volumes == nil {
		c.cfg.Volumes = map[string]struct{}{}
	}
	for _, v := range list {
		if v = strings.TrimSpace(v); v == "" {
			return invalid("VOLUME specified can not be an empty string")
		}
		c.cfg.Volumes[v] = struct{}{}
	}
	return nil
}

func (c *changer) onbuild(rest string) error {
	trigger, _ := cutWord(rest)
	switch strings.ToUpper(trigger) {
	case "ONBUILD":
		return invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
	case "MAINTAINER", "FROM":
		return invalid("%s isn't allowed as an ONBUILD trigger", strings.ToUpper(trigger))
	}
	c.cfg.OnBuild = append(c.cfg.OnBuild, rest)
	return nil
}

func (c *changer) healthcheck(rest string) error {
	h := &dockerspec.HealthcheckConfig{}
	for strings.HasPrefix(rest, "--") {
		var flag string
		flag, rest = cutWord(rest)
		name, value, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
		if name == "retries" {
			n, err := strconv.ParseInt(value, 10, 32)
			if err != nil || n < 0 {
				return invalid("--retries must be at least 0: %.32q", value)
			}
			h.Retries = int(n)
			continue
		}
		fields := map[string]*time.Duration{
			"interval": &h.Interval, "timeout": &h.Timeout,
			"start-period": &h.StartPeriod, "start-interval": &h.StartInterval,
		}
		field, ok := fields[name]
		if !ok {
			return invalid("unknown flag: %.64s", flag)
		}
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 || d > 0 && d < time.Millisecond {
			return invalid("interval %.64q cannot be less than 1ms", flag)
		}
		*field = d
	}
	kind, args := cutWord(rest)
	switch strings.ToUpper(kind) {
	case "NONE":
		if args != "" {
			return invalid("HEALTHCHECK NONE takes no arguments")
		}
		h = &dockerspec.HealthcheckConfig{Test: []string{"NONE"}}
	case "CMD":
		if args == "" {
			return invalid("Missing command after HEALTHCHECK CMD")
		}
		if list, ok := jsonList(args); ok {
			h.Test = append([]string{"CMD"}, list...)
		} else {
			h.Test = []string{"CMD-SHELL", args}
		}
	default:
		return invalid("Unknown type %.64q in HEALTHCHECK (try CMD)", kind)
	}
	c.cfg.Healthcheck = h
	return nil
}
