// Package datapath enforces policy on one machine: it puts the sections the
// controller sends together with what is found here, hands the whole to a
// driver, and reports what connections there were and what became of them.
//
// README.md beside the code states what every driver must hold to.
package datapath
