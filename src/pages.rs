//! How large the pages of memory are that the process gets.
//!
//! A plan of a thousand nodes is read in less time than the system takes to zero the huge pages that the allocator asks
//! for; tensors want them. So the process begins without, and gets them when the first node does its work.

/// From now on no huge pages, where the system can be told so.
pub fn small() {
    set(true);
}

/// From now on huge pages again.
pub fn huge() {
    set(false);
}

#[cfg(target_os = "linux")]
fn set(is_disabled: bool) {
    // It only saves time.
    let _ = rustix::thread::disable_transparent_huge_pages(is_disabled);
}

#[cfg(not(target_os = "linux"))]
fn set(_: bool) {}
