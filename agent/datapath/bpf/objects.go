package bpf

//go:generate go tool bpf2go -go-package bpf -target bpfel,bpfeb -type event -type lookup -type hello -type step -type identity_key -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu" policy policy.c

//go:generate go tool bpf2go -go-package bpf -target bpfel,bpfeb -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu" edge edge.c

//go:generate go tool bpf2go -go-package bpf -target bpfel,bpfeb -type guest_event -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu" guest guest.c

//go:generate go tool bpf2go -go-package bpf -target bpfel,bpfeb -type drop -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu" drops drops.c
