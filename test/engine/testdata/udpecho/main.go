// udpecho answers every datagram on port 5353 with itself.
package main

import "net"

func main() {
	conn, err := net.ListenPacket("udp", ":5353")
	if err != nil {
		panic(err)
	}
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			panic(err)
		}
		conn.WriteTo(buf[:n], from)
	}
}
