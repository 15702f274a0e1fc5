//! How much memory a thread holds, counted by the allocator, and the wall that no allocation gets past.
//! Knows nothing of the work.
//!
//! A script may spend most of its time in functions of its language that do not return before they have made
//! their result. The allocator is the only place that sees what they take while they take it. It cannot fail there:
//! unwinding out of an allocator is undefined, and a null pointer ends the process. So an allocation past the wall
//! never returns: its thread sleeps for good, says so, and whoever waits for it gives it up.

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    ptr::null,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// An allocator that counts the bytes of every thread. Only where it is the program's `#[global_allocator]` is the memory
/// of scripts bounded.
pub struct Counted<A>(pub A);

thread_local! {
    static ACCOUNT: Account = const { Account { held: Cell::new(0), most: Cell::new(isize::MAX), is_over: Cell::new(null()) } };
}

struct Account {
    /// Bytes allocated less bytes freed by this thread; below zero where it frees what others allocated.
    held: Cell<isize>,
    /// Bytes past which this thread sleeps.
    most: Cell<isize>,
    /// Where it says that it does.
    is_over: Cell<*const AtomicBool>,
}

fn grow(bytes: usize) {
    ACCOUNT.with(|account| {
        let held = account.held.get().wrapping_add_unsigned(bytes);
        if held > account.most.get() {
            sleep_for_good(account.is_over.get());
        }
        account.held.set(held);
    });
}

fn shrink(bytes: usize) {
    ACCOUNT.with(|account| account.held.set(account.held.get().wrapping_sub_unsigned(bytes)));
}

#[cold]
fn sleep_for_good(is_over: *const AtomicBool) -> ! {
    // SAFETY: `within` set it together with the limit, from a reference that outlives its call, which never ends now.
    unsafe { &*is_over }.store(true, Ordering::Release);
    loop {
        std::thread::sleep(Duration::from_secs(1 << 20));
    }
}

// SAFETY: every call goes on to `A` unchanged; counting touches thread-local cells that neither allocate nor have a
// destructor.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counted<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrink(layout.size());
        unsafe { self.0.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // What has to be moved is there twice for a moment.
        grow(new_size);
        let moved = unsafe { self.0.realloc(pointer, layout, new_size) };
        shrink(layout.size());
        moved
    }
}

/// Bytes that this thread holds beyond what it held when the innermost [`within`] began.
#[must_use]
pub fn held() -> usize {
    ACCOUNT.with(|account| usize::try_from(account.held.get()).unwrap_or(0))
}

/// Runs `work`, which may hold `most` bytes. Where it asks for more, `is_over` is set and this never returns.
pub fn within<R>(most: usize, is_over: &AtomicBool, work: impl FnOnce() -> R) -> R {
    counted(isize::try_from(most).unwrap_or(isize::MAX), is_over, work)
}

/// Runs what belongs to the program and not to the script, such as writing a log line while others wait for the same
/// lock: it is never put to sleep.
pub fn uncounted<R>(work: impl FnOnce() -> R) -> R {
    counted(isize::MAX, null(), work)
}

fn counted<R>(most: isize, is_over: *const AtomicBool, work: impl FnOnce() -> R) -> R {
    /// Puts the account back, also where `work` panics.
    struct Before(isize, isize, *const AtomicBool);
    impl Drop for Before {
        fn drop(&mut self) {
            ACCOUNT.with(|account| {
                account.held.set(self.0.wrapping_add(account.held.get()));
                account.most.set(self.1);
                account.is_over.set(self.2);
            });
        }
    }
    let _before = ACCOUNT
        .with(|account| Before(account.held.replace(0), account.most.replace(most), account.is_over.replace(is_over)));
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_holds_is_what_it_allocated_and_did_not_free() {
        let never = AtomicBool::new(false);
        within(1 << 30, &never, || {
            let mut kept: Vec<u8> = Vec::with_capacity(1000);
            assert_eq!(held(), 1000);
            kept.reserve_exact(5000);
            assert_eq!(held(), 5000);
            drop(vec![0u8; 100_000]);
            uncounted(|| {
                std::mem::forget(vec![0u8; 77]);
                assert_eq!(held(), 77);
            });
            assert_eq!(held(), 5077);
            drop(kept);
            assert_eq!(held(), 77);
        });
        assert!(!never.load(Ordering::Relaxed));
    }

    #[test]
    fn an_allocation_past_the_wall_puts_its_thread_to_sleep_and_no_other() {
        static IS_OVER: AtomicBool = AtomicBool::new(false);
        let thread = std::thread::spawn(|| within(1 << 20, &IS_OVER, || vec![0u8; 1 << 40].len()));
        while !IS_OVER.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        assert_eq!(vec![1u8; 2 << 20].len(), 2 << 20);
        assert!(!thread.is_finished());
    }
}
