// floor does what a container runtime cannot do without, and nothing else: clone,
// mounts, pivot_root, exec and wait. It has no configuration, control groups,
// capabilities, seccomp filter or error messages. It is the floor that the
// benchmark measures runtimes against.
//
// Usage: floor ROOTFS PROGRAM [ARGUMENT...]
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static void need(int failed, const char *what)
{
	if (failed) {
		perror(what);
		_exit(1);
	}
}

static void mnt(const char *src, const char *dst, const char *type, unsigned long flags, const char *data)
{
	mkdir(dst, 0755);
	need(mount(src, dst, type, flags, data), dst);
}

static void device(const char *path, int major, int minor)
{
	need(mknod(path, S_IFCHR | 0666, makedev(major, minor)), path);
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	const char *root = argv[1];
	int flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
	long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
	need(pid < 0, "clone");
	if (pid > 0) {
		int status;
		need(waitpid(pid, &status, 0) < 0, "waitpid");
		return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
	unsigned long no = MS_NOSUID | MS_NOEXEC | MS_NODEV;
	umask(0);
	setsid();
	need(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
	need(mount(root, root, NULL, MS_BIND | MS_REC, NULL), "bind root");
	need(chdir(root), root);
	mnt("proc", "proc", "proc", 0, NULL);
	mnt("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
	mnt("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
	mnt("shm", "dev/shm", "tmpfs", no, "mode=1777,size=65536k");
	mnt("mqueue", "dev/mqueue", "mqueue", no, NULL);
	mnt("sysfs", "sys", "sysfs", no | MS_RDONLY, NULL);
	device("dev/null", 1, 3);
	device("dev/zero", 1, 5);
	device("dev/full", 1, 7);
	device("dev/random", 1, 8);
	device("dev/urandom", 1, 9);
	device("dev/tty", 5, 0);
	symlink("/proc/self/fd", "dev/fd");
	symlink("/proc/self/fd/0", "dev/stdin");
	symlink("/proc/self/fd/1", "dev/stdout");
	symlink("/proc/self/fd/2", "dev/stderr");
	symlink("pts/ptmx", "dev/ptmx");
	need(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	need(umount2(".", MNT_DETACH), "umount");
	need(chdir("/"), "/");
	need(sethostname("floor", 5), "sethostname");
	execv(argv[2], argv + 2);
	need(1, argv[2]);
}
