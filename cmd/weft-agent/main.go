// Command weft-agent runs on every machine: it taps, sees, segments and
// connects, as the controller says.
package main

func main() {}
