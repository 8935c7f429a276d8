//! A directory that is held by its descriptor.
//!
//! A module may swap any directory that it may write for a link while the sidecar works in it. Therefore everything
//! below a shared directory is reached through the descriptor of one that is held, and no link is followed on the
//! way: by `openat2`, or component by component where the kernel or its filter does not know that call.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self as sys, Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use rustix::io::Errno;

use crate::lock::Locked;
use crate::os;

/// A directory that stays the same, whatever its path leads to by now.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    /// Where it was found, for messages.
    path: PathBuf,
    /// The user and group to whom what is made below belongs, if not to those of this directory.
    heirs: Option<(u32, u32)>,
    /// Its own lock, where it has one.
    lock: Option<Locked<OwnedFd>>,
}

/// For reading its entries.
const READABLE: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);
/// For reaching what lies in it, whatever its permissions.
const REACHABLE: OFlags = os::REACHABLE.union(OFlags::DIRECTORY);

impl Dir {
    /// Opens the directory that a path leads to: the one place that follows links.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let fd = sys::openat(CWD, path, READABLE | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd, path: path.to_owned(), heirs: None, lock: None })
    }

    /// Gives it to another user and group.
    pub(crate) fn give(&self, uid: u32, gid: u32) -> io::Result<()> {
        Ok(sys::fchown(&self.fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
    }

    /// Gives what is made below to this user and group.
    pub(crate) fn for_heirs(mut self, heirs: Option<(u32, u32)>) -> Self {
        self.heirs = heirs;
        self
    }

    /// Locks it until it is dropped.
    ///
    /// # Errors
    /// `WouldBlock` when somebody else has locked it.
    pub(crate) fn locked(mut self) -> io::Result<Self> {
        self.lock = Some(Locked::new(self.fd.try_clone()?)?);
        Ok(self)
    }

    /// Where it was found.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory below; a link or a file in its place is an error of the kind `NotADirectory`.
    pub(crate) fn dir(&self, name: impl AsRef<Path>) -> io::Result<Self> {
        let name = name.as_ref();
        let fd = self.open_below(name, READABLE, Mode::empty())?;
        Ok(Self { fd, path: self.path.join(name), heirs: self.heirs, lock: None })
    }

    /// A directory below that its owner has made unreadable or read-only, made usable if it is the sidecar's own.
    pub(crate) fn usable_dir(&self, name: impl AsRef<Path>) -> io::Result<Self> {
        let name = name.as_ref();
        let is_usable = |fd: &OwnedFd| -> io::Result<bool> {
            Ok(Mode::from_raw_mode(sys::fstat(fd)?.st_mode).contains(Mode::RWXU))
        };
        match self.dir(name) {
            Ok(dir) if is_usable(&dir.fd)? => return Ok(dir),
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
        let reached = self.open_below(name, REACHABLE, Mode::empty())?;
        let mode = Mode::from_raw_mode(sys::fstat(&reached)?.st_mode);
        // Where that fails it may still be usable; if not, whoever uses it gets the error.
        let _ = os::chmod_reached(&reached, mode | Mode::RWXU);
        let fd = sys::openat(&reached, ".", READABLE | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd, path: self.path.join(name), heirs: self.heirs, lock: None })
    }

    /// Makes a directory below, and those that lead to it, unless they are there; new ones belong to whoever this
    /// one belongs to, and are as accessible, whatever the process's umask.
    pub(crate) fn make_dir(&self, name: impl AsRef<Path>) -> io::Result<()> {
        let name = name.as_ref();
        if name.as_os_str().is_empty() {
            return Ok(());
        }
        // The last one first: as a rule those above are there.
        let mut made = self.at(name, |dir, last| sys::mkdirat(dir, last, Mode::RWXU));
        if made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            && let Some(above) = name.parent().filter(|above| !above.as_os_str().is_empty())
        {
            self.make_dir(above)?;
            made = self.at(name, |dir, last| sys::mkdirat(dir, last, Mode::RWXU));
        }
        match made {
            Ok(()) => self.dir(name)?.inherit(self),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The directory below that only this user may enter, made unless it is there; not so are those that lead to it.
    pub(crate) fn make_private_dir(&self, name: &Path) -> io::Result<Self> {
        if let Some(above) = name.parent().filter(|above| !above.as_os_str().is_empty()) {
            self.make_dir(above)?;
        }
        match self.at(name, |dir, last| sys::mkdirat(dir, last, Mode::RWXU)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.dir(name),
        }
    }

    /// Takes over owner, group, mode and setgid bit of another directory, as far as this process may.
    fn inherit(&self, from: &Self) -> io::Result<()> {
        let (have, want) = (sys::fstat(&self.fd)?, sys::fstat(&from.fd)?);
        let (uid, gid) = from.heirs.unwrap_or((want.st_uid, want.st_gid));
        if (have.st_uid, have.st_gid) != (uid, gid) {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            // To give something away takes a privilege; to give it to one's own group does not.
            let given = sys::fchown(&self.fd, Some(uid), Some(gid));
            let _ = given.or_else(|_| sys::fchown(&self.fd, None, Some(gid)));
        }
        // The sticky bit protects what lies in one directory; here everybody may remove his own.
        let mode = (Mode::from_raw_mode(want.st_mode) | Mode::RWXU).difference(Mode::SVTX);
        Ok(sys::fchmod(&self.fd, mode)?)
    }

    /// Opens a file below for reading; neither a pipe nor a link makes it wait.
    pub(crate) fn open_file(&self, name: &Path) -> io::Result<File> {
        Ok(self.open_below(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?.into())
    }

    /// Opens a file below for reading and writing, making it if it is absent.
    pub(crate) fn open_lock(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
        Ok(self.open_below(Path::new(name), flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Makes a file below in place of what has that name; its directory is made if need be.
    pub(crate) fn create_file(&self, name: &Path, mode: Mode) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        for _ in 0..AGAIN {
            match self.open_below(name, flags, mode) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_dir(name.parent().unwrap_or(Path::new("")))?;
                }
                // Never written to: it may be somebody else's file under a second name.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.remove_file(name)?,
                opened => return Ok(opened?.into()),
            }
        }
        Ok(self.open_below(name, flags, mode)?.into())
    }

    /// Makes a file on the file system of this directory that has no name yet.
    pub(crate) fn create_unnamed(&self, mode: Mode) -> io::Result<File> {
        os::create_unnamed(self.fd.as_fd(), mode)
    }

    /// Gives a file without a name one, unless that is taken.
    pub(crate) fn link(&self, file: &File, name: &Path) -> io::Result<()> {
        self.at(name, |dir, last| os::link_unnamed(file, dir, last))
    }

    /// What lies below under this name, and not what it links to.
    pub(crate) fn stat(&self, name: impl AsRef<Path>) -> io::Result<Stat> {
        self.at(name.as_ref(), |dir, last| sys::statat(dir, last, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// What it is itself.
    pub(crate) fn own_stat(&self) -> io::Result<Stat> {
        Ok(sys::fstat(&self.fd)?)
    }

    /// Where a link below points to.
    pub(crate) fn read_link(&self, name: &Path) -> io::Result<PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        let target = self.at(name, |dir, last| sys::readlinkat(dir, last, Vec::new()))?;
        Ok(std::ffi::OsString::from_vec(target.into_bytes()).into())
    }

    /// Makes a link below.
    pub(crate) fn symlink(&self, target: &Path, name: &Path) -> io::Result<()> {
        self.at(name, |dir, last| sys::symlinkat(target, dir, last))
    }

    /// Whether this process may read a file below.
    pub(crate) fn may_read(&self, name: &Path) -> io::Result<()> {
        self.at(name, |dir, last| sys::accessat(dir, last, Access::READ_OK, AtFlags::EACCESS))
    }

    /// Calls `each` with every entry's name and type, until it returns `false` or an error.
    pub(crate) fn entries(
        &self,
        mut each: impl FnMut(&CStr, FileType) -> io::Result<bool>,
    ) -> io::Result<()> {
        for entry in sys::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let file_type = match entry.file_type() {
                FileType::Unknown => match sys::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    found => FileType::from_raw_mode(found?.st_mode),
                },
                known => known,
            };
            if !each(name, file_type)? {
                break;
            }
        }
        Ok(())
    }

    /// Moves what lies below under a name to a name below another directory.
    pub(crate) fn rename(&self, name: &Path, to: &Self, new: &Path) -> io::Result<()> {
        self.at(name, |from, last| {
            to.at(new, |to, new| sys::renameat(from, last, to, new))
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })
    }

    /// The same, unless the new name is taken.
    pub(crate) fn rename_new(&self, name: &Path, new: &Path) -> io::Result<()> {
        self.at(name, |from, last| {
            self.at(new, |to, new| sys::renameat_with(from, last, to, new, RenameFlags::NOREPLACE))
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })
    }

    /// Removes a file below.
    pub(crate) fn remove_file(&self, name: &Path) -> io::Result<()> {
        self.at(name, |dir, last| sys::unlinkat(dir, last, AtFlags::empty()))
    }

    /// Removes an empty directory below.
    pub(crate) fn remove_dir(&self, name: &Path) -> io::Result<()> {
        self.at(name, |dir, last| sys::unlinkat(dir, last, AtFlags::REMOVEDIR))
    }

    /// Makes its entries durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        // One that was opened for reading, and not only to be reached.
        Ok(sys::fsync(&self.fd)?)
    }

    /// Makes everything on its file system durable.
    pub(crate) fn sync_file_system(&self) -> io::Result<()> {
        os::sync_file_system(&self.fd)
    }

    /// The same directory under another descriptor.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, path: self.path.clone(), heirs: self.heirs, lock: None })
    }

    /// Whether both are one directory.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let id = |dir: &Self| dir.own_stat().map(|stat| (stat.st_dev, stat.st_ino));
        matches!((id(self), id(other)), (Ok(one), Ok(other)) if one == other)
    }

    /// Removes everything in it, however deep, with few descriptors and no recursion: what lies in a directory below
    /// is moved up until nothing is deeper than one level.
    pub(crate) fn empty(&self) -> io::Result<()> {
        loop {
            let mut deeper = false;
            self.entries(|name, file_type| {
                match file_type {
                    FileType::Directory => deeper |= self.flatten(Path::new(os(name)))?,
                    _ => absent_is_fine(self.remove_file(Path::new(os(name))))?,
                }
                Ok(true)
            })?;
            if !deeper {
                return Ok(());
            }
        }
    }

    /// Removes a directory below; its own directories are moved up. Says whether there were any.
    fn flatten(&self, name: &Path) -> io::Result<bool> {
        match self.remove_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => return absent_is_fine(removed).map(|()| false),
        }
        let dir = self.usable_dir(name)?;
        let mut moved = false;
        dir.entries(|inner, file_type| {
            let inner = Path::new(os(inner));
            if file_type != FileType::Directory {
                return absent_is_fine(dir.remove_file(inner)).map(|()| true);
            }
            match dir.remove_dir(inner) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    moved = true;
                    let up = PathBuf::from(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
                    // To move a directory takes the right to write it.
                    match dir.rename(inner, self, &up) {
                        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                            drop(dir.usable_dir(inner)?);
                            dir.rename(inner, self, &up)?;
                        }
                        renamed => renamed?,
                    }
                }
                removed => absent_is_fine(removed)?,
            }
            Ok(true)
        })?;
        self.remove_dir(name)?;
        Ok(moved)
    }

    /// Removes a file or a whole tree below; an absent one is fine.
    pub(crate) fn remove(&self, name: impl AsRef<Path>) -> io::Result<()> {
        let name = name.as_ref();
        match self.stat(name).map(|found| FileType::from_raw_mode(found.st_mode)) {
            Ok(FileType::Directory) => {
                self.usable_dir(name)?.empty()?;
                absent_is_fine(self.remove_dir(name))
            }
            Ok(_) => absent_is_fine(self.remove_file(name)),
            Err(error) => absent_is_fine(Err(error)),
        }
    }

    /// Opens what lies below under a relative path; a link in it is an error of the kind `NotADirectory`.
    fn open_below(&self, name: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..AGAIN {
            match os::open_beneath(self.fd.as_fd(), name, flags, mode) {
                // Something was renamed on the way.
                Err(Errno::AGAIN) => {}
                // An old kernel, or a filter that knows no such call.
                Err(Errno::NOSYS | Errno::PERM) => break,
                Err(Errno::LOOP) => return Err(is_a_link()),
                opened => return Ok(opened?),
            }
        }
        self.at(name, |dir, last| sys::openat(dir, last, flags, mode)).map_err(|error| {
            match Errno::from_io_error(&error) {
                Some(Errno::LOOP) => is_a_link(),
                _ => error,
            }
        })
    }

    /// Calls `call` with the directory of `name` and its last component.
    fn at<T>(
        &self,
        name: &Path,
        call: impl FnOnce(BorrowedFd<'_>, &OsStr) -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        let mut components = name.components();
        let Some(Component::Normal(last)) = components.next_back() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let above = components.as_path();
        if above.as_os_str().is_empty() {
            return Ok(call(self.fd.as_fd(), last)?);
        }
        let flags = REACHABLE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match os::open_beneath(self.fd.as_fd(), above, flags, Mode::empty()) {
            Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => self.step_to(above, flags)?,
            opened => opened?,
        };
        Ok(call(dir.as_fd(), last)?)
    }

    /// Opens a directory below component by component.
    fn step_to(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let mut dir = self.fd.try_clone()?;
        for component in path.components() {
            let Component::Normal(name) = component else { return Err(io::ErrorKind::InvalidInput.into()) };
            dir = sys::openat(&dir, name, flags, Mode::empty())?;
        }
        Ok(dir)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How often something is tried again that somebody else has just changed.
const AGAIN: usize = 8;

/// A name as the file system has it.
pub(crate) fn os(name: &CStr) -> &OsStr {
    use std::os::unix::ffi::OsStrExt;
    OsStr::from_bytes(name.to_bytes())
}

fn is_a_link() -> io::Error {
    io::Error::new(io::ErrorKind::NotADirectory, "it is a link")
}

/// What is to be removed may be gone.
pub(crate) fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The device that keeps nothing.
const NOWHERE: &str = "/dev/null";

/// Opens the regular file that a path leads to, for reading; a pipe in its place does not make it wait.
#[cfg(feature = "local")]
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    open_regular_with(path, OFlags::empty())
}

/// The same with these flags.
pub(crate) fn open_regular_with(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | flags;
    let file = File::from(sys::open(path, flags, Mode::empty())?);
    match FileType::from_raw_mode(sys::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file")),
    }
}

/// Where a file is: below a directory that is held, or wherever a path leads.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Below(Arc<Dir>, PathBuf),
    At(PathBuf),
    /// What is written there is gone.
    Nowhere,
}

impl Place {
    /// For messages.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Below(dir, name) => dir.path.join(name),
            Self::At(path) => path.clone(),
            Self::Nowhere => NOWHERE.into(),
        }
    }

    pub(crate) fn open(&self) -> io::Result<File> {
        self.on(|dir, name| dir.open_file(name))
    }

    pub(crate) fn stat(&self) -> io::Result<Stat> {
        self.on(|dir, name| dir.stat(name))
    }

    /// Makes the file in place of what is there, and its directory if need be.
    pub(crate) fn create(&self, mode: Mode) -> io::Result<File> {
        if let Self::At(path) = self
            && let Some(parent) = path.parent()
        {
            std::fs::create_dir_all(parent)?;
        }
        if let Self::Nowhere = self {
            return File::options().write(true).open(NOWHERE);
        }
        self.on(|dir, name| dir.create_file(name, mode))
    }

    fn on<T>(&self, call: impl FnOnce(&Dir, &Path) -> io::Result<T>) -> io::Result<T> {
        match self {
            Self::Below(dir, name) => call(dir, name),
            Self::Nowhere => Err(io::ErrorKind::Unsupported.into()),
            Self::At(path) => {
                let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                    return Err(io::ErrorKind::InvalidInput.into());
                };
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                call(&Dir::open(parent)?, Path::new(name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn scene() -> (tempfile::TempDir, Dir) {
        let dir = tempfile::tempdir().unwrap();
        for below in ["base/a/b", "outside"] {
            fs::create_dir_all(dir.path().join(below)).unwrap();
        }
        fs::write(dir.path().join("outside/secret"), "s").unwrap();
        let base = Dir::open(&dir.path().join("base")).unwrap();
        (dir, base)
    }

    #[test]
    fn no_link_on_the_way_is_followed() {
        let (dir, base) = scene();
        symlink("../outside", dir.path().join("base/out")).unwrap();
        symlink("a", dir.path().join("base/in")).unwrap();
        symlink("../outside/secret", dir.path().join("base/a/file")).unwrap();
        for name in
            ["out/secret", "in/b", "a/file", "../outside/secret", "/etc/passwd", "a/../../outside/secret"]
        {
            let name = Path::new(name);
            assert!(base.open_file(name).is_err(), "{name:?}");
            assert!(base.create_file(name, Mode::RWXU).is_err() || name == Path::new("a/file"), "{name:?}");
            if name != Path::new("in/b") {
                assert!(base.dir(name).is_err(), "{name:?}");
            }
        }
        assert_eq!(fs::read_to_string(dir.path().join("outside/secret")).unwrap(), "s");
        base.remove("out").unwrap();
        base.remove("in").unwrap();
        assert!(dir.path().join("outside/secret").exists() && dir.path().join("base/a/b").exists());
    }

    #[test]
    fn component_by_component_is_as_strict() {
        let (dir, base) = scene();
        symlink("../outside", dir.path().join("base/out")).unwrap();
        let flags = REACHABLE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        base.step_to(Path::new("a/b"), flags).unwrap();
        for name in ["out", "a/../a", "..", "/"] {
            base.step_to(Path::new(name), flags).unwrap_err();
        }
    }

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        let (_dir, base) = scene();
        let mut at = base.dir("a").unwrap();
        for _ in 0..3000 {
            at.make_dir("d").unwrap();
            at.create_file(Path::new("f"), Mode::RUSR).unwrap();
            at = at.dir("d").unwrap();
        }
        drop(at);
        base.remove("a").unwrap();
        assert!(base.stat("a").is_err());
    }

    #[test]
    fn read_only_trees_are_removed_and_links_are_not_followed() {
        let (dir, base) = scene();
        fs::write(dir.path().join("base/a/b/f"), "").unwrap();
        symlink("../../../outside", dir.path().join("base/a/b/l")).unwrap();
        fs::create_dir_all(dir.path().join("base/a/b/c/d")).unwrap();
        for name in ["base/a/b/c", "base/a/b", "base/a"] {
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o500)).unwrap();
        }
        base.remove("a").unwrap();
        assert!(base.stat("a").is_err());
        assert!(dir.path().join("outside/secret").exists());
    }

    #[test]
    fn new_directories_are_as_accessible_as_the_one_above() {
        let (dir, _) = scene();
        fs::set_permissions(dir.path().join("base"), fs::Permissions::from_mode(0o2770)).unwrap();
        let base = Dir::open(&dir.path().join("base")).unwrap();
        base.make_dir("new/below").unwrap();
        for name in ["base/new", "base/new/below"] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o2770);
        }
    }
}
