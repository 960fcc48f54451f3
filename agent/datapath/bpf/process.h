// Who is at a socket: the executable's path as its mount namespace shows it,
// numbered, and the user.
#pragma once

#define CORE __attribute__((preserve_access_index))

struct qstr { __u64 hash_len; const unsigned char *name; } CORE;
struct inode { unsigned long i_ino; } CORE;
struct dentry { struct dentry *d_parent; struct qstr d_name; struct inode *d_inode; } CORE;
struct vfsmount { struct dentry *mnt_root; } CORE;
struct mount { struct mount *mnt_parent; struct dentry *mnt_mountpoint; struct vfsmount mnt; } CORE;
struct path___kernel { struct vfsmount *mnt; struct dentry *dentry; } CORE;
struct file { struct path___kernel f_path; } CORE;
struct mm_struct { struct file *exe_file; } CORE;
struct kuid { __u32 val; } CORE;
struct cred { struct kuid uid; } CORE;
struct task_struct { struct mm_struct *mm; const struct cred *cred; int tgid; char comm[16]; } CORE;
struct net { __u64 net_cookie; } CORE;
struct possible_net { struct net *net; } CORE;
struct sock_common { struct possible_net skc_net; } CORE;
struct sock { struct sock_common __sk_common; __u16 sk_protocol; } CORE;
struct socket { struct sock *sk; } CORE;
struct mptcp_subflow_context { struct sock *conn; } CORE;
struct inet_connection_sock { void *icsk_ulp_data; } CORE;
struct bpf_iter__tcp { struct bpf_iter_meta *meta; struct sock_common *sk_common; __u32 uid; } CORE;
struct bpf_iter_meta;
struct bpf_map;
struct bpf_iter__bpf_map_elem { struct bpf_iter_meta *meta; struct bpf_map *map; void *key; void *value; } CORE;
struct bpf_iter__task_file { struct bpf_iter_meta *meta; struct task_struct *task; __u32 fd; struct file *file; } CORE;

#define COMPONENTS 32

struct scratch_path {
	char name[2 * PATH_MAX_LEN]; // room for the last piece to run over
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch_path);
} scratch_paths SEC(".maps");

// number_path walks from the file to the root of its mount namespace: a chroot
// changes nothing of what is found. It returns 0 where the path is too long.
static __noinline int number_path(struct dentry *dentry, struct vfsmount *vfs)
{
	__u32 zero = 0, at = 0;
	struct scratch_path *out = bpf_map_lookup_elem(&scratch_paths, &zero);
	if (!out)
		return 0;
	__builtin_memset(out, 0, sizeof(*out));
	struct mount *mount = (void *)vfs - bpf_core_field_offset(struct mount, mnt);
	for (int i = 0; i < COMPONENTS; i++) {
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
		if (dentry == BPF_CORE_READ(mount, mnt.mnt_root) || dentry == parent) {
			struct mount *above = BPF_CORE_READ(mount, mnt_parent);
			if (above == mount || !above)
				goto done;
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = above;
			continue;
		}
		const unsigned char *name = BPF_CORE_READ(dentry, d_name.name);
		if (at >= PATH_MAX_LEN)
			return 0;
		asm volatile("" : "+r"(at)); // or the compiler knows better than some verifiers
		long n = bpf_probe_read_kernel_str(out->name + (at & (PATH_MAX_LEN - 1)), PATH_MAX_LEN, name);
		if (n <= 1 || n > PATH_MAX_LEN)
			return 0;
		at += n;
		if (at > PATH_MAX_LEN || at == 0)
			return 0;
		out->name[(at - 1) & (2 * PATH_MAX_LEN - 1)] = '/';
		dentry = parent;
	}
	return 0;
done:
	if (at >= PATH_MAX_LEN)
		return 0;
	__u32 *known = bpf_map_lookup_elem(&paths, out);
	if (known)
		return *known;
	__u32 *last = bpf_map_lookup_elem(&path_number, &zero);
	if (!last)
		return 0;
	__u32 number = __sync_fetch_and_add(last, 1) + 1;
	if (bpf_map_update_elem(&paths, out, &number, BPF_NOEXIST)) {
		known = bpf_map_lookup_elem(&paths, out);
		if (known)
			return *known;
		TROUBLE(paths_full);
		return 0;
	}
	return number;
}

static __always_inline __u32 exe_of(struct task_struct *task)
{
	struct file *file = BPF_CORE_READ(task, mm, exe_file);
	if (!file)
		return 0;
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	struct vfsmount *vfs = BPF_CORE_READ(file, f_path.mnt);
	if (!dentry || !vfs)
		return 0;
	struct file_key key = {
		.dentry = (__u64)dentry,
		.parent = (__u64)BPF_CORE_READ(dentry, d_parent),
		.inode = (__u64)BPF_CORE_READ(dentry, d_inode),
		.mount = (__u64)vfs,
		.ino = BPF_CORE_READ(dentry, d_inode, i_ino),
		.name_hash = BPF_CORE_READ(dentry, d_name.hash_len),
	};
	__u32 *known = bpf_map_lookup_elem(&known_files, &key);
	if (known)
		return *known;
	__u32 number = number_path(dentry, vfs);
	if (number)
		bpf_map_update_elem(&known_files, &key, &number, BPF_ANY);
	return number;
}

static __always_inline void read_current(struct process *p)
{
	p->flags = PROC_KNOWN;
	p->pid = bpf_get_current_pid_tgid() >> 32;
	p->uid = (__u32)bpf_get_current_uid_gid();
	p->exe = exe_of((void *)bpf_get_current_task());
	bpf_get_current_comm(p->comm, sizeof(p->comm));
}
