// SPDX-License-Identifier: GPL-2.0

//! Calls into `hv_vmbus` that wait for the host without limit, with a limit.
//!
//! Such a call runs on a work queue of this module. Its caller waits until a deadline; then it goes on, and
//! the call is left to its thread, together with everything that it uses. The module cannot be unloaded
//! before the call has returned.

use crate::{
    bindings,
    vmbus::completion::{Completion, Deadline},
};
use core::ptr::NonNull;
use kernel::{
    impl_has_work, new_spinlock, new_work,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Full, Relaxed, Release},
        Arc, SpinLock, UniqueArc,
    },
    workqueue::{self, Work, WorkItem},
};

/// The queue that the calls run on, while there is a [`CallQueue`]. As an address: a pointer is not `Sync`.
static QUEUE: Atomic<usize> = Atomic::new(0);
/// Calls that have not returned although nobody waits for them any more.
static ABANDONED: Atomic<u64> = Atomic::new(0);

/// How many calls the host has not answered that nobody waits for any more.
pub fn abandoned() -> u64 {
    ABANDONED.load(Relaxed)
}

/// The module's work queue. Dropping it waits for all calls.
///
/// # Invariants
///
/// Came from `alloc_workqueue`, and is in [`QUEUE`].
pub struct CallQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: A work queue can be used and destroyed from any thread.
unsafe impl Send for CallQueue {}
// SAFETY: There are no methods.
unsafe impl Sync for CallQueue {}

impl CallQueue {
    /// Makes the queue. The module has one, from before its first call until after its last; `EBUSY` for
    /// another.
    pub fn new() -> Result<Self> {
        // SAFETY: No preconditions.
        let queue = NonNull::new(unsafe { bindings::netvsc_alloc_workqueue() }).ok_or(ENOMEM)?;
        if QUEUE.cmpxchg(0, queue.as_ptr() as usize, Full).is_err() {
            // SAFETY: Just made; nobody has used it.
            unsafe { bindings::destroy_workqueue(queue.as_ptr()) };
            return Err(EBUSY);
        }
        // INVARIANT: Just made and stored.
        Ok(Self(queue))
    }

    /// The queue, while there is one.
    fn get() -> Option<&'static workqueue::Queue> {
        let queue = QUEUE.load(Acquire) as *const kernel::bindings::workqueue_struct;
        if queue.is_null() {
            return None;
        }
        // SAFETY: By the type invariant it is a work queue. It lives until the module's end, which comes
        // after all drivers' callbacks, from which calls are made.
        Some(unsafe { workqueue::Queue::from_raw(queue) })
    }
}

impl Drop for CallQueue {
    fn drop(&mut self) {
        QUEUE.store(0, Release);
        // SAFETY: By the type invariant; waits for what runs, and nobody queues any more.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// A call, the place where its caller waits, and its result.
#[pin_data]
struct Task<T, C, L> {
    #[pin]
    work: Work<Self>,
    #[pin]
    returned: Completion,
    #[pin]
    inner: SpinLock<Inner<T, C, L>>,
}

struct Inner<T, C, L> {
    /// Until it begins.
    call: Option<C>,
    /// What is done with a result that nobody waits for.
    late: Option<L>,
    result: Option<T>,
    caller: Caller,
}

enum Caller {
    Waits,
    HasGone { module_is_pinned: bool },
}

impl_has_work! {
    impl{T, C, L} HasWork<Self> for Task<T, C, L> { self.work }
}

impl<T, C, L> WorkItem for Task<T, C, L>
where
    T: Send + Unpin + 'static,
    C: FnOnce() -> T + Send + Unpin + 'static,
    L: FnOnce(T) + Send + Unpin + 'static,
{
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let call = this.inner.lock().call.take();
        let Some(call) = call else {
            return;
        };
        let result = call();
        let mut inner = this.inner.lock();
        let Caller::HasGone { module_is_pinned } = inner.caller else {
            inner.result = Some(result);
            drop(inner);
            this.returned.complete();
            return;
        };
        let late = inner.late.take();
        drop(inner);
        if let Some(late) = late {
            late(result);
        }
        ABANDONED.fetch_sub(1, Relaxed);
        // What this holds may refer to the module's code.
        drop(this);
        if module_is_pinned {
            // SAFETY: `abandon` took this reference. The code that follows stays: unloading waits for it in
            // `CallQueue::drop`.
            unsafe { bindings::module_put(crate::THIS_MODULE.as_ptr()) };
        }
    }
}

impl<T: Unpin, C: Unpin, L: Unpin> Task<T, C, L> {
    /// The result, if there is one; else nobody waits for it from here on.
    fn take_or_abandon(&self) -> Option<T> {
        let mut inner = self.inner.lock();
        let result = inner.result.take();
        if result.is_none() {
            // SAFETY: The module is loaded: this is its code. Fails only while it is being unloaded.
            let module_is_pinned = unsafe { bindings::try_module_get(crate::THIS_MODULE.as_ptr()) };
            inner.caller = Caller::HasGone { module_is_pinned };
            ABANDONED.fetch_add(1, Relaxed);
        }
        result
    }
}

/// A call that was begun. If it is dropped, nobody waits for it.
pub struct Begun<T: Unpin, C: Unpin, L: Unpin>(Stage<T, C, L>);

enum Stage<T, C, L> {
    /// On its way.
    Queued(Arc<Task<T, C, L>>),
    /// Returned, and the result taken if it is not here.
    Returned(Option<T>),
}

/// Makes `call` on another thread. If it returns when nobody waits for it any more, `late` gets the result, on
/// that thread.
///
/// Without memory for all this the call is made here, and waits without limit.
pub fn begin<T, C, L>(call: C, late: L) -> Begun<T, C, L>
where
    T: Send + Unpin + 'static,
    C: FnOnce() -> T + Send + Unpin + 'static,
    L: FnOnce(T) + Send + Unpin + 'static,
{
    let place = UniqueArc::<Task<T, C, L>>::new_uninit(GFP_KERNEL);
    let (Some(queue), Ok(place)) = (CallQueue::get(), place) else {
        return Begun(Stage::Returned(Some(call())));
    };
    let task = place.pin_init_with(pin_init!(Task {
        work <- new_work!("hv_netvsc call"),
        returned <- Completion::new(),
        inner <- new_spinlock!(Inner {
            call: Some(call),
            late: Some(late),
            result: None,
            caller: Caller::Waits,
        }),
    }));
    let task: Arc<Task<T, C, L>> = match task {
        Ok(task) => task.into(),
        Err(never) => match never {},
    };
    // A new work item is on no queue yet.
    let _ = queue.enqueue(task.clone());
    Begun(Stage::Queued(task))
}

impl<T: Unpin, C: Unpin, L: Unpin> Begun<T, C, L> {
    /// Waits for the result until `deadline`; `None` if it passed first. Sleeps.
    pub fn wait(mut self, deadline: Deadline) -> Option<T> {
        match core::mem::replace(&mut self.0, Stage::Returned(None)) {
            Stage::Queued(task) => {
                task.returned.wait(deadline);
                task.take_or_abandon()
            }
            Stage::Returned(result) => result,
        }
    }
}

impl<T: Unpin, C: Unpin, L: Unpin> Drop for Begun<T, C, L> {
    fn drop(&mut self) {
        if let Stage::Queued(task) = &self.0 {
            drop(task.take_or_abandon());
        }
    }
}

/// Makes `call` on another thread and waits for its result until `deadline`. `None` if it passed first: then
/// `late` gets the result, if there is one ever, on that thread. As [`begin`] otherwise.
pub fn bounded<T, C, L>(deadline: Deadline, call: C, late: L) -> Option<T>
where
    T: Send + Unpin + 'static,
    C: FnOnce() -> T + Send + Unpin + 'static,
    L: FnOnce(T) + Send + Unpin + 'static,
{
    begin(call, late).wait(deadline)
}
