package cleanup

import (
	"errors"
	"slices"
	"testing"
)

func TestRunReversesOrderAndJoinsErrors(t *testing.T) {
	var order []int
	first, second := errors.New("first"), errors.New("second")
	s := Make(func() error { order = append(order, 1); return first })
	s.Add(func() error { order = append(order, 2); return nil })
	s.Add(func() error { order = append(order, 3); return second })

	err := s.Run()
	if want := []int{3, 2, 1}; !slices.Equal(order, want) {
		t.Errorf("order = %v, want %v", order, want)
	}
	if !errors.Is(err, first) || !errors.Is(err, second) {
		t.Errorf("Run() = %v, want both errors", err)
	}
	if err := s.Run(); err != nil || len(order) != 3 {
		t.Errorf("a second Run() = %v after %v, want nothing to run", err, order)
	}
}

func TestReleaseForgets(t *testing.T) {
	s := Make(func() error { t.Error("undo ran after Release"); return nil })
	s.Release()
	if err := s.Run(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}
