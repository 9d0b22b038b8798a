package builder

import (
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"
)

// steps writes a build's progress as the builder of old did: the Dockerfile's
// instructions one after the other, each with its output. The solver runs them
// in any order and several at a time, so what comes early is held back.
type steps struct {
	out   *messages
	quiet bool
	list  []*step // in the order of the Dockerfile
	next  int     // the first that is not written to its end
	byKey map[string]*step
}

// step is one instruction.
type step struct {
	text      string
	id        string // of the vertex that runs it; "" until one does
	began     bool   // its head is written
	ran, done bool
	cached    bool
	held      []byte // output that waits for its turn
}

func newSteps(out *messages, texts []string, quiet bool) *steps {
	s := &steps{out: out, quiet: quiet, byKey: map[string]*step{}}
	for _, t := range texts {
		s.list = append(s.list, &step{text: t})
	}
	return s
}

// update takes news from the solver.
func (s *steps) update(m *controlapi.StatusResponse) {
	for _, v := range m.Vertexes {
		st := s.byKey[v.Digest]
		if st == nil {
			if st = s.assign(v.Name); st == nil {
				continue
			}
			st.id = v.Digest
			s.byKey[v.Digest] = st
		}
		st.ran = st.ran || v.Started != nil
		st.cached = st.cached || v.Cached
		st.done = st.done || v.Completed != nil && v.Error == ""
	}
	for _, l := range m.Logs {
		if st := s.byKey[l.Vertex]; st != nil {
			st.held = append(st.held, l.Msg...)
		}
	}
	s.flush(false)
}

// assign finds the instruction that a vertex runs. Vertices are named
// "[STAGE 2/3] RUN make"; variables in the text are expanded.
func (s *steps) assign(name string) *step {
	if !strings.HasPrefix(name, "[") {
		return nil
	}
	place, text, ok := strings.Cut(name[1:], "] ")
	if !ok || place == "internal" || place == "auth" {
		return nil
	}
	verb, _, _ := strings.Cut(text, " ")
	var loose *step
	for _, st := range s.list {
		if st.id != "" {
			continue
		}
		if strings.EqualFold(strings.Join(strings.Fields(st.text), " "), strings.Join(strings.Fields(text), " ")) {
			return st
		}
		if v, _, _ := strings.Cut(st.text, " "); loose == nil && strings.EqualFold(v, verb) {
			loose = st
		}
	}
	return loose
}

// leavesNoVertex says whether the instruction only changes the image's
// configuration.
func (st *step) leavesNoVertex() bool {
	verb, _, _ := strings.Cut(st.text, " ")
	switch strings.ToUpper(verb) {
	case "FROM", "RUN", "COPY", "ADD", "WORKDIR":
		return false
	}
	return true
}

// flush writes what may be written: with all everything, else up to the first
// instruction that is still at work.
func (s *steps) flush(all bool) {
	for ; s.next < len(s.list); s.next++ {
		st := s.list[s.next]
		passed := st.done || all || st.leavesNoVertex() && s.laterRan()
		if !passed && !st.ran {
			return
		}
		if s.quiet {
			st.held = nil
		} else {
			s.write(st)
		}
		if !passed {
			return
		}
		if !s.quiet && st.id != "" {
			if st.cached {
				s.out.text(" ---> Using cache\n")
			}
			s.out.text(" ---> %s\n", shortID(st.id))
		}
	}
}

// laterRan says whether an instruction after the next has begun.
func (s *steps) laterRan() bool {
	for _, st := range s.list[s.next+1:] {
		if st.ran || st.done {
			return true
		}
	}
	return false
}

func (s *steps) write(st *step) {
	if !st.began {
		st.began = true
		s.out.text("Step %d/%d : %s\n", s.next+1, len(s.list), st.text)
	}
	if len(st.held) > 0 {
		s.out.text("%s", st.held)
		st.held = nil
	}
}

// finish writes what was held back; after a failure only what had begun.
func (s *steps) finish(ok bool) {
	if ok {
		s.flush(true)
		return
	}
	for ; s.next < len(s.list); s.next++ {
		st := s.list[s.next]
		if !s.quiet && (st.ran || st.leavesNoVertex() && s.laterRan()) {
			s.write(st)
		}
	}
}
