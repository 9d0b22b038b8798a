package system

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/spf13/cobra"

	"lighter/cli/session"
)

// newDialStdioCommand joins standard input and output with the engine's
// connection: what runs at the far end of ssh.
func newDialStdioCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "dial-stdio", Short: "Proxy the stdio stream to the daemon connection. Should not be invoked manually.",
		Args: session.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			conn, err := c.Dialer()(cmd.Context())
			if err != nil {
				return fmt.Errorf("open the raw stream connection: %w", err)
			}
			defer conn.Close()
			return join(conn, s.In, s.Out)
		},
	}
}

// join copies both ways until the engine has sent its last byte. The end of
// input is passed on, so that the engine can still answer.
func join(conn net.Conn, in io.Reader, out io.Writer) error {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("the raw stream connection does not implement half close")
	}
	input := make(chan error, 1)
	go func() { // ends with the program at the latest: a read of standard input can't be cancelled
		_, err := io.Copy(conn, in)
		input <- errors.Join(err, half.CloseWrite())
	}()
	output := make(chan error, 1)
	go func() {
		_, err := io.Copy(out, conn)
		output <- err
	}()
	select {
	case err := <-output:
		return err
	case err := <-input:
		if err != nil {
			return err
		}
		return <-output
	}
}
