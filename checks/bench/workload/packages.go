package workload

// systemPackages are what the closures of a system are made of, libraries first: a package refers to those before it alone, as Debian's
// dependencies have it. Both suites have them under the same names.
var systemPackages = []string{
	"libgcc-s1", "libc6", "libstdc++6", "zlib1g", "libzstd1", "liblzma5", "libcrypt1", "libtinfo6", "libpcre2-8-0", "libselinux1", "libacl1", "libattr1", "libgmp10",
	"libcap2", "libaudit1", "libpam0g", "libpam-modules", "libmount1", "libblkid1", "libuuid1", "libsystemd0", "libudev1", "libssl3t64", "openssl",
	"bash", "coreutils", "grep", "sed", "gawk", "findutils", "tar", "gzip", "xz-utils", "zstd", "perl-base", "libkrb5-3", "libgnutls30t64", "libcurl4t64", "curl",
	"libsqlite3-0", "libsystemd-shared", "systemd", "dbus", "util-linux", "e2fsprogs", "procps", "iproute2", "nftables", "sudo", "openssh-client", "openssh-server",
	"gpg", "rsync", "nginx-common", "nginx", "lvm2", "busybox", "vim-tiny", "git",
}

// largePackages are what the one large path is made of.
var largePackages = []string{"libllvm19", "libclang-cpp19", "llvm-19", "clang-19", "golang-1.24-go", "golang-1.24-src", "git", "gdb"}

// largeSize is where the large path ends.
const largeSize = 500e6

// tinyPaths is how many paths of a system are its own configuration: units, files of /etc, scripts.
const tinyPaths = 1500
