// Package direct imports paths into this machine's Nix store without the Nix daemon's help for their contents: it extracts NARs itself, several
// at once, and has `nix-store --load-db` register many paths in one transaction. It needs root and Linux; [Possible] says whether a machine
// allows it. Elsewhere [fleet/closure.Importer], which has the same methods, does the work.
//
// The store is shared with Nix, so the rules are those of Nix (libstore/local-store.cc, addToStore; the same from 2.8 to 2.36):
//
//   - A temporary root comes first, then the path's lock, then the question whether the path is valid by now.
//   - What lies at the place of an invalid path is left over from somebody who did not end, and is removed.
//   - Files have the modes 0444 and 0555, folders 0555; all belong to root and were last changed one second after the epoch.
//   - Hash and size of the NAR are compared before a path is registered, and its references are valid by then, or are registered with it.
//   - The lock is released after that.
//
// So a crash at any moment leaves what a crash of Nix leaves: things at the place of an invalid path, which whoever comes next removes.
//
// Where Options.Base names paths that are much like new ones, and the store is on btrfs or xfs, files of the same name share what is equal. The NAR is
// compared with the base byte for byte, so nothing depends on what the base holds. It is for paths of whose files most blocks are where they were; what has moved is written.
//
// The daemon is asked for what is its own: roots, validity, and signatures, which --load-db cannot set. Paths with a content address, and derivations,
// go through the daemon as a whole, since the database keeps more of them than --load-db knows. What --load-db has registered is
// compared with what was meant, through the daemon.
package direct
