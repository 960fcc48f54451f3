// Package nft enforces policy with nftables, for kernels without the BPF
// features: one table "weft" of the family inet in each network namespace that
// holds subjects. README.md beside the code says how a packet is judged.
package nft
