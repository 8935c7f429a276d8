//! What happens to several attempts of one execution, and what must hold afterwards.

use std::process::Command;
use std::time::Duration;

use futures_util::future::{try_join, try_join3};

use crate::attempt::{Attempt, Ended, Place, Then, directory, maintain};
use crate::audit::{agree, audit, nothing_is_left};
use crate::plane::Plane;
use crate::proxy::{Proxy, Store};

/// How long an attempt is held while others run.
const HELD: Duration = Duration::from_millis(300);

/// By then an attempt has given up the calls that are held, and tries again.
const GIVEN_UP: Duration = Duration::from_millis(2500);

/// A row of the table. A is the attempt that is brought to the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Row {
    Killed,
    Stopped,
    Collected,
    CollectedBeside,
    CutOff(Store),
    Two,
    Three,
    LostDisk,
    ClonedDisk,
    Rerun,
}

impl Row {
    pub const ALL: [Self; 12] = [
        Self::Killed,
        Self::Stopped,
        Self::Collected,
        Self::CollectedBeside,
        Self::CutOff(Store::Blobs),
        Self::CutOff(Store::Documents),
        Self::CutOff(Store::Events),
        Self::Two,
        Self::Three,
        Self::LostDisk,
        Self::ClonedDisk,
        Self::Rerun,
    ];

    /// Whether it can be played where stores are directories.
    pub fn is_local(self) -> bool {
        !matches!(self, Self::CutOff(_))
    }

    /// What becomes of A.
    fn then(self) -> Then {
        match self {
            Self::Stopped | Self::Collected | Self::CollectedBeside | Self::Two | Self::Three => Then::GoesOn,
            Self::CutOff(_) => Then::IsCutOff,
            Self::Killed | Self::LostDisk | Self::ClonedDisk | Self::Rerun => Then::Dies,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Killed => "one is killed, another one runs",
            Self::Stopped => "one is stopped, and continued when another one has ended",
            Self::Collected => "one is stopped, `gc` runs, it is continued, another one runs",
            Self::CollectedBeside => "one is at work while `gc` runs, another one runs",
            Self::CutOff(Store::Blobs) => {
                "one is cut off from the blobs; what it sent arrives after another one"
            }
            Self::CutOff(Store::Documents) => {
                "one is cut off from the documents; what it sent arrives after another one"
            }
            Self::CutOff(Store::Events) => {
                "one is cut off from the bus; what it sent arrives after another one"
            }
            Self::Two => "two at once",
            Self::Three => "three at once",
            Self::LostDisk => "one is killed, and runs again without its disk",
            Self::ClonedDisk => "one is killed, and runs twice at once on copies of its disk",
            Self::Rerun => "one is killed, another one runs, and `--rerun=1` twice",
        }
    }
}

/// Plays the row at this place; the data plane is fresh.
pub async fn play(mut plane: Plane, row: Row, place: &Place) -> Result<(), String> {
    let proxy = match row {
        Row::CutOff(store) => Proxy::before(&mut plane, store).await,
        _ => None,
    };
    let plane = &plane;
    let start = |name| Attempt::start(plane, name, None, &[]);
    let again = |name| Attempt::start(plane, name, None, &["--rerun=1"]);
    let mut a = Attempt::start(plane, "A", Some((place, row.then())), &[]);
    let ended = match row {
        Row::Killed => {
            a.held().await?;
            a.kill();
            vec![start("B").end().await?.committed()?]
        }
        Row::Stopped => {
            a.held().await?;
            let b = start("B").end().await?.committed()?;
            a.go_on();
            vec![a.end().await?.committed_or_clear()?, b]
        }
        Row::Collected => {
            a.held().await?;
            maintain(plane, &["gc"]).await?;
            a.go_on();
            let a = a.end().await?.committed_or_clear()?;
            vec![a, start("B").end().await?.committed()?]
        }
        Row::CollectedBeside => {
            a.held().await?;
            let gc = maintain(plane, &["gc"]);
            a.go_on();
            let (a, ()) = try_join(a.end(), gc).await?;
            vec![a.committed_or_clear()?, start("B").end().await?.committed()?]
        }
        Row::CutOff(_) => {
            let proxy = proxy.ok_or("the store has no server")?;
            a.passes().await?;
            proxy.cut_off(a.id());
            let b = start("B").end().await?.committed()?;
            tokio::time::sleep(GIVEN_UP).await;
            proxy.release();
            vec![a.end().await?.committed_or_clear()?, b]
        }
        Row::Two => {
            let (a, b) = try_join(a.end_after(HELD), start("B").end()).await?;
            vec![a.committed()?, b.committed()?]
        }
        Row::Three => {
            let (a, b, c) = try_join3(a.end_after(HELD), start("B").end(), start("C").end()).await?;
            vec![a.committed()?, b.committed()?, c.committed()?]
        }
        Row::LostDisk => {
            a.held().await?;
            a.kill();
            std::fs::remove_dir_all(directory(plane, "A")).unwrap();
            vec![start("B-without-disk").end().await?.committed()?]
        }
        Row::ClonedDisk => {
            a.held().await?;
            a.kill();
            for name in ["B-clone", "C-clone"] {
                let copied = Command::new("cp")
                    .arg("-a")
                    .args([directory(plane, "A"), directory(plane, name)])
                    .status();
                assert!(copied.unwrap().success());
            }
            let (b, c) = try_join(start("B-clone").end(), start("C-clone").end()).await?;
            vec![b.committed()?, c.committed()?]
        }
        Row::Rerun => {
            a.held().await?;
            a.kill();
            let b = start("B").end().await?.committed()?;
            let c = again("C").end().await?.committed()?;
            let d = again("D").end().await?.committed()?;
            if c.receipt["events"] != d.receipt["events"] {
                return Err(format!("run 1 was answered {}, and then {}", c.receipt, d.receipt));
            }
            vec![b, c, d]
        }
    };
    check(plane, if row == Row::Rerun { 2 } else { 1 }, &ended).await
}

async fn check(plane: &Plane, outcomes: usize, ended: &[Ended]) -> Result<(), String> {
    maintain(plane, &["recover"]).await?;
    let found = audit(plane, outcomes).await?;
    agree(ended, &found)?;
    maintain(plane, &["gc"]).await?;
    let kept = audit(plane, outcomes).await.map_err(|problem| format!("after gc: {problem}"))?;
    if kept != found {
        return Err("gc changed the outcome".into());
    }
    nothing_is_left(plane, &kept).await.map_err(|problem| format!("after gc: {problem}"))
}
