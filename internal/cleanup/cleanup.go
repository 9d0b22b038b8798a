// Package cleanup collects the undo of each step that succeeded, to run in
// reverse order when a later step fails.
package cleanup

import "errors"

// Stack is a list of undo functions. The zero value is empty and ready to use.
// It belongs to one goroutine.
type Stack struct {
	undo []func() error
}

// Make returns a Stack that holds undo.
func Make(undo func() error) *Stack {
	s := &Stack{}
	s.Add(undo)
	return s
}

// Add pushes undo. Call it the moment the step that it reverts has succeeded.
func (s *Stack) Add(undo func() error) { s.undo = append(s.undo, undo) }

// Release forgets everything: the operation succeeded, Run will do nothing.
func (s *Stack) Release() { s.undo = nil }

// Run calls the functions in reverse order of Add, each exactly once, and joins
// their errors. It is safe to defer: after Release it does nothing.
func (s *Stack) Run() error {
	undo := s.undo
	s.undo = nil
	var errs []error
	for i := len(undo) - 1; i >= 0; i-- {
		if err := undo[i](); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
