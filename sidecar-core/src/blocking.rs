//! File work beside the async threads, and threads that have nothing else to do.

use crate::error::Result;

/// Runs a whole blocking file operation off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: nobody is left to take an answer.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The same for work that takes no time worth mentioning: on a [`dedicated`] thread it is done in place, since to hand
/// it over and to be woken would take longer.
pub(crate) async fn brief<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match dedicated::is_here() {
        true => work(),
        false => blocking(work).await,
    }
}

/// Whether this thread has nothing else to do: see [`dedicated`].
#[cfg(feature = "process")]
pub(crate) fn is_dedicated() -> bool {
    dedicated::is_here()
}

/// Starts a task: on this thread if it is a [`dedicated`] one.
pub(crate) fn spawn<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    dedicated::spawn(work).unwrap_or_else(tokio::spawn)
}

#[cfg(not(feature = "worker"))]
mod dedicated {
    pub(super) fn is_here() -> bool {
        false
    }

    pub(super) fn spawn<W>(work: W) -> Result<tokio::task::JoinHandle<W::Output>, W>
    where
        W: Future,
    {
        Err(work)
    }
}

/// A thread for one future, which may do its file work in place. Sockets and timers stay with the runtime, and so does
/// what the future spawns by tokio's own means.
#[cfg(feature = "worker")]
pub(crate) mod dedicated {
    use std::cell::RefCell;
    use std::io;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::rc::Rc;
    use std::thread;

    use tokio::runtime::Handle;
    use tokio::sync::oneshot;
    use tokio::task::{JoinHandle, LocalSet};

    thread_local! {
        /// The tasks of a dedicated thread.
        static TASKS: RefCell<Option<Rc<LocalSet>>> = const { RefCell::new(None) };
    }

    pub(super) fn is_here() -> bool {
        TASKS.with_borrow(Option::is_some)
    }

    pub(super) fn spawn<W>(work: W) -> Result<JoinHandle<W::Output>, W>
    where
        W: Future + 'static,
        W::Output: 'static,
    {
        TASKS.with_borrow(|tasks| match tasks {
            Some(tasks) => Ok(tasks.spawn_local(work)),
            None => Err(work),
        })
    }

    /// Runs a future on a thread of its own until it ends or this is dropped. Tasks that it has spawned go on until they
    /// end, as others do.
    ///
    /// # Errors
    /// When no thread can be started.
    ///
    /// # Panics
    /// When the future does.
    pub(crate) async fn run<W: Future<Output = ()>>(
        name: String,
        work: impl FnOnce() -> W + Send + 'static,
    ) -> io::Result<()> {
        let runtime = Handle::current();
        let (_wanted, dropped) = oneshot::channel::<()>();
        let (ended, end) = oneshot::channel();
        thread::Builder::new().name(name).spawn(move || {
            let tasks = Rc::new(LocalSet::new());
            TASKS.set(Some(tasks.clone()));
            let worked = catch_unwind(AssertUnwindSafe(|| {
                runtime.block_on(async {
                    tokio::select! {
                        () = work() => {}
                        _ = dropped => {}
                        () = tasks.run_until(std::future::pending()) => {}
                    }
                });
            }));
            // Whoever dropped this does not want to know.
            let _ = ended.send(worked);
            TASKS.take();
            if let Ok(tasks) = Rc::try_unwrap(tasks) {
                runtime.block_on(tasks);
            }
        })?;
        match end.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(io::Error::other("the thread has ended")),
        }
    }
}

#[cfg(all(test, feature = "worker"))]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dedicated_thread_does_its_file_work_in_place() {
        let (sender, receiver) = mpsc::channel();
        let work = move || async move {
            let here = thread::current().id();
            assert_eq!(brief(|| Ok(thread::current().id())).await.unwrap(), here);
            assert_ne!(blocking(|| Ok(thread::current().id())).await.unwrap(), here);
            assert_eq!(spawn(async { thread::current().id() }).await.unwrap(), here);
            assert_ne!(tokio::spawn(async { thread::current().id() }).await.unwrap(), here);
            // What an embedder's function may do.
            tokio::task::block_in_place(|| tokio::time::sleep(Duration::ZERO)).await;
            sender.send(here).unwrap();
        };
        dedicated::run("slot".into(), work).await.unwrap();
        assert_ne!(receiver.recv().unwrap(), thread::current().id());
        assert_ne!(brief(|| Ok(thread::current().id())).await.unwrap(), thread::current().id());
    }

    #[tokio::test]
    async fn a_dedicated_thread_ends_with_whoever_wants_it_and_its_tasks_do_not() {
        let (sender, receiver) = mpsc::channel();
        let work = move || async move {
            let (work, task) = (sender.clone(), sender);
            spawn(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                task.send("task").unwrap();
            });
            tokio::time::sleep(Duration::from_millis(200)).await;
            work.send("work").unwrap();
        };
        let wanted = tokio::time::timeout(Duration::from_millis(50), dedicated::run("slot".into(), work));
        assert!(wanted.await.is_err());
        let told = tokio::task::spawn_blocking(move || receiver.iter().collect::<Vec<_>>()).await.unwrap();
        assert_eq!(told, ["task"]);
    }

    #[tokio::test]
    async fn a_panic_of_a_dedicated_thread_is_one_of_whoever_wants_it() {
        let work = || async { panic!("a defect") };
        let ended = tokio::spawn(dedicated::run("slot".into(), work)).await;
        assert!(ended.unwrap_err().is_panic());
    }
}
