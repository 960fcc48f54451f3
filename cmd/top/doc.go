// Package top is the screen of `weft top` and `weft-agent top`: what a machine is
// doing, or all of a fleet, live.
//
// A frame is a grid of characters, drawn from the state alone, so that tests
// compare it as text; the terminal is written only where a frame differs from the
// one before, because links are slow. All text of others (names of processes, of
// mounts, messages) goes through clean, whatever its source.
package top
