package container

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"math/big"
	"regexp"
	"strings"

	"github.com/moby/moby/api/types/events"
)

const validNameChars = `[a-zA-Z0-9][a-zA-Z0-9_.-]`

var validName = regexp.MustCompile(`^` + validNameChars + `+$`)

// newID returns a random container or exec ID: 64 hexadecimal digits of which
// the first 12 do not read as a number, as they become a host name.
func newID() string {
	for {
		var random [32]byte
		rand.Read(random[:])
		id := hex.EncodeToString(random[:])
		if strings.ContainsAny(id[:12], "abcdef") {
			return id
		}
	}
}

// reserveName takes name, or a generated one when it is empty, for the container
// id and returns it with its slash. releaseName gives it back.
func (m *Manager) reserveName(id, name string) (string, error) {
	if name == "" {
		return m.generateName(id), nil
	}
	if !validName.MatchString(strings.TrimPrefix(name, "/")) {
		return "", invalid("Invalid container name (%s), only %s are allowed", name, validNameChars)
	}
	name = "/" + strings.TrimPrefix(name, "/")
	m.mu.Lock()
	defer m.mu.Unlock()
	if owner, taken := m.names[name]; taken {
		return "", conflict("Conflict. The container name %q is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", name, owner)
	}
	m.names[name] = id
	return name, nil
}

func (m *Manager) generateName(id string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range 6 {
		name := "/" + pick(adjectives) + "_" + pick(vessels)
		if _, taken := m.names[name]; !taken {
			m.names[name] = id
			return name
		}
	}
	name := "/" + id[:12]
	m.names[name] = id
	return name
}

func (m *Manager) releaseName(id, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] == id {
		delete(m.names, name)
	}
}

// Rename gives the container another name. Commit point: the store's
// transaction; when it fails the old name stays.
func (m *Manager) Rename(ctx context.Context, ref, newName string) error {
	newName = strings.TrimSpace(newName)
	if strings.TrimPrefix(strings.TrimSpace(ref), "/") == "" || strings.TrimPrefix(newName, "/") == "" {
		return invalid("Neither old nor new names may be empty")
	}
	e, err := m.lookup(strings.TrimSpace(ref))
	if err != nil {
		return err
	}
	if err := e.acquire(ctx); err != nil { // two renames must not cross
		return err
	}
	defer e.release()
	old := e.rec.Load()
	if "/"+strings.TrimPrefix(newName, "/") == old.Name {
		return invalid("Renaming a container with the same name as its current name")
	}
	name, err := m.reserveName(e.id, newName)
	if err != nil {
		return wrap("Error when allocating new name", err)
	}
	r, err := m.commit(context.WithoutCancel(ctx), e, func(r *record) error {
		if r.State == Removing {
			return conflict("container %s is being removed", r.ID)
		}
		r.Name = name
		return nil
	})
	if err != nil {
		m.change(e, func(r *record) error { r.Name = old.Name; return nil }) // never fails
		m.releaseName(e.id, name)
		return err
	}
	m.releaseName(e.id, old.Name)
	if err := m.Networks.Rename(context.WithoutCancel(ctx), e.id, r.name()); err != nil {
		m.Log.Warn("container keeps its old name on its networks until it starts again", "container", e.id, "err", err)
	}
	m.publish(r, events.ActionRename, "oldName", old.Name)
	return nil
}

func pick(words []string) string {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(words))))
	if err != nil {
		return words[0] // cannot happen: the kernel's generator does not fail
	}
	return words[n.Int64()]
}

// Generated names are an adjective and a kind of boat.
var (
	adjectives = strings.Fields(`able amber ample apt azure bold brave bright brisk broad calm candid
		civil clear clever coastal cosy crisp curious daring deft dewy eager early earnest easy even
		fair fast fleet fond frank free fresh gentle glad golden grand green handy happy hardy hazel
		honest humble ivory jolly keen kind lasting leal light lively lofty loyal lucid lucky mellow
		merry mild misty modest neat nimble noble northern novel open patient placid plain polar proud
		quick quiet ready robust rosy safe sandy serene sharp silent silver simple sleek smart snug
		solid southern sparkling steady still stout sturdy subtle sunny swift tender tidal tidy trim
		true trusty upright vivid warm wise witty young zesty`)
	vessels = strings.Fields(`ark barge bark barque bateau brig brigantine bumboat caique canoe caravel
		carrack catamaran catboat clipper coaster cog coracle corvette cutter dhow dinghy dory dreadnought
		felucca ferry frigate galiot galleon galley gig gondola hooker houseboat hoy hulk hydrofoil junk
		kayak keelboat ketch knarr launch liner longboat longship lugger monitor outrigger packet pinnace
		pirogue pontoon proa punt raft randan sampan schooner scow scull shallop shell skiff sloop smack
		snow steamer tartane tender tjalk trawler trimaran trireme tug umiak whaler wherry xebec yacht yawl`)
)
