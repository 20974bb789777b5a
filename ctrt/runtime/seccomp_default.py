"""The default seccomp profile, grouped by what each group of calls is for.

The rule: a call that the profile does not know fails with ENOSYS, so that programs fall back
to an older one; a call that is known and refused fails with EPERM, so that nobody is misled.
Some groups open only to a container that holds the capability that they need anyway.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ALLOWED: dict[str, str] = {
    "open, read, write and close": """
        open openat openat2 creat close close_range read readv pread64 preadv preadv2 write
        writev pwrite64 pwritev pwritev2 lseek _llseek dup dup2 dup3 fcntl fcntl64 ioctl flock
        fsync fdatasync sync syncfs sync_file_range sync_file_range2 readahead fadvise64
        fadvise64_64 arm_fadvise64_64 fallocate truncate truncate64 ftruncate ftruncate64
        copy_file_range sendfile sendfile64 splice tee vmsplice cachestat""",
    "names, attributes and directories": """
        access faccessat faccessat2 stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat
        statx statfs statfs64 fstatfs fstatfs64 getdents getdents64 getcwd chdir fchdir mkdir
        mkdirat rmdir link linkat unlink unlinkat symlink symlinkat readlink readlinkat rename
        renameat renameat2 chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32
        fchownat lchown lchown32 utime utimes utimensat utimensat_time64 futimesat mknod mknodat
        umask getxattr lgetxattr fgetxattr getxattrat listxattr llistxattr flistxattr listxattrat
        setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr
        removexattrat name_to_handle_at file_getattr file_setattr inotify_init inotify_init1
        inotify_add_watch inotify_rm_watch""",
    "memory": """
        brk mmap mmap2 munmap mremap mprotect madvise process_madvise mincore msync mlock mlock2
        mlockall munlock munlockall mseal memfd_create memfd_secret pkey_alloc pkey_free
        pkey_mprotect remap_file_pages membarrier map_shadow_stack process_mrelease""",
    "processes and threads": """
        fork vfork execve execveat exit exit_group wait4 waitid waitpid getpid gettid getppid
        getpgid getpgrp setpgid getsid setsid set_tid_address set_robust_list get_robust_list
        set_thread_area get_thread_area arch_prctl modify_ldt prctl rseq futex futex_time64
        futex_wait futex_wake futex_requeue futex_waitv pidfd_open pidfd_send_signal
        sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr
        sched_getparam sched_setparam sched_getscheduler sched_setscheduler
        sched_get_priority_max sched_get_priority_min sched_rr_get_interval
        sched_rr_get_interval_time64 getpriority setpriority ioprio_get ioprio_set getcpu
        riscv_flush_icache riscv_hwprobe""",
    "tracing one's own processes": "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd",
    "users, groups, capabilities and limits": """
        getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32
        getresgid getresgid32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid
        setregid32 setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid
        setfsgid32 getgroups getgroups32 setgroups setgroups32 capget capset getrlimit ugetrlimit
        setrlimit prlimit64 getrusage times acct seccomp landlock_create_ruleset
        landlock_add_rule landlock_restrict_self""",
    "signals": """
        kill tkill tgkill sigaltstack signalfd signalfd4 pause alarm sigreturn rt_sigreturn
        sigaction rt_sigaction sigprocmask rt_sigprocmask sigpending rt_sigpending
        rt_sigqueueinfo rt_tgsigqueueinfo sigsuspend rt_sigsuspend rt_sigtimedwait
        rt_sigtimedwait_time64 restart_syscall""",
    "time": """
        time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64
        clock_nanosleep clock_nanosleep_time64 nanosleep getitimer setitimer timer_create
        timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
        timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
        timerfd_settime64 adjtimex clock_adjtime clock_adjtime64""",
    "waiting for events": """
        poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create
        epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
        eventfd eventfd2 io_setup io_submit io_cancel io_destroy io_getevents io_pgetevents
        io_pgetevents_time64""",
    "pipes, sockets and messages": """
        pipe pipe2 socketpair bind connect listen accept accept4 shutdown getsockname
        getpeername getsockopt setsockopt send sendto sendmsg sendmmsg recv recvfrom recvmsg
        recvmmsg recvmmsg_time64 mq_open mq_unlink mq_notify mq_getsetattr
        mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 ipc msgget msgsnd
        msgrcv msgctl semget semop semtimedop semtimedop_time64 semctl shmget shmat shmdt
        shmctl""",
    "about the system": "uname olduname sysinfo getrandom syslog",
    "ARM": "breakpoint cacheflush set_tls get_tls",
}
"""Calls that every container may make, under what they are for."""

WITH_CAPABILITY: dict[str, str] = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": """
        bpf clone3 fanotify_init fanotify_mark fsconfig fsmount fsopen fspick lsm_get_self_attr
        lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree
        open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname setns
        statmount listmount umount umount2 unshare""",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot pivot_root",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node migrate_pages",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}
"""Calls that open with a capability; without it they are refused with EPERM."""

REFUSED = """
    add_key keyctl request_key userfaultfd io_uring_setup io_uring_enter io_uring_register
    kexec_load kexec_file_load swapon swapoff nfsservctl lookup_dcookie vm86 vm86old uselib
    ustat sysfs _sysctl create_module get_kernel_syms query_module move_pages socketcall"""
"""Calls that no container makes: they reach what namespaces do not divide.

socketcall is the one call for all sockets that 32-bit programs had before Linux 4.3. Which family
of socket it is to make lies in memory, where no filter can look, so it would be a way round the
rule on families; C libraries use the calls of their own since then.
"""

SHUT_FAMILIES = {
    38: "AF_ALG: the kernel's ciphers, which no container needs and which have had holes",
    40: "AF_VSOCK: a way to the hypervisor past every network namespace",
}
"""Families of sockets (sys/socket.h) that stay shut, and why."""

_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}


def _families() -> list[dict[str, Any]]:
    """Rules that allow sockets of every family but those that stay shut.

    Comparisons of one argument are alternatives, so there is a rule for each range in between.
    """

    def rule(*comparisons: tuple[str, int]) -> dict[str, Any]:
        return {
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": value, "op": op} for op, value in comparisons],
        }

    shut = sorted(SHUT_FAMILIES)
    between = [
        rule(("SCMP_CMP_EQ", family))
        for family in range(shut[0], shut[-1])
        if family not in SHUT_FAMILIES
    ]
    return [rule(("SCMP_CMP_LT", shut[0])), *between, rule(("SCMP_CMP_GT", shut[-1]))]


def profile(capabilities: list[str], machine: str) -> dict[str, Any]:
    """The default profile as the OCI runtime specification has it.

    `capabilities` are the names in the container's bounding set, `machine` is uname(2)'s.
    """
    names: list[str] = []
    for group in ALLOWED.values():
        names += group.split()
    refused = REFUSED.split()
    for capability, calls in WITH_CAPABILITY.items():
        (names if capability in capabilities else refused).extend(calls.split())
    allowed = sorted(set(names))
    has_admin = "CAP_SYS_ADMIN" in capabilities
    syscalls: list[dict[str, Any]] = [
        {"names": allowed, "action": "SCMP_ACT_ALLOW"},
        {
            # The linux personalities, and the two that ask (0xffffffff) or emulate 32 bits.
            "names": ["personality"],
            "action": "SCMP_ACT_ALLOW",
            "args": [
                {"index": 0, "value": value, "op": "SCMP_CMP_EQ"}
                for value in (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
            ],
        },
        *_families(),
    ]
    if has_admin:
        syscalls.append({"names": ["clone"], "action": "SCMP_ACT_ALLOW"})
    else:
        syscalls.append(
            {
                "names": ["clone"],
                "action": "SCMP_ACT_ALLOW",
                "args": [
                    {
                        "index": 0,
                        "value": _NAMESPACES,
                        "valueTwo": 0,
                        "op": "SCMP_CMP_MASKED_EQ",
                    }
                ],
            }
        )
        # clone3 takes its flags by pointer, where a filter cannot look: ENOSYS, the default,
        # makes the C library fall back to clone.
        refused = [name for name in refused if name != "clone3"]
    syscalls.append(
        {
            "names": sorted(set(refused) - set(allowed)),
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 1,
        }
    )
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": _ARCHITECTURES.get(machine, []),
        "syscalls": syscalls,
    }
