// Command guest is what powerd's testbed runs inside its virtual machine. As
// process 1 it sets the node up; otherwise it is the agent that does what the
// host asks (package wire).
package main

import (
	"fmt"
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("testbed guest: ")
	var err error
	if os.Getpid() == 1 {
		err = initialise()
	} else {
		err = serve()
	}
	// Process 1 must not return; on its error the kernel panics and, told
	// panic=-1, ends the machine, which the host sees with this last line.
	fmt.Fprintln(os.Stderr, "testbed guest:", err)
	os.Exit(1)
}
