//! An allocator that looks into every block that is freed, or that moves as it
//! grows, for bytes that should have been wiped.
//!
//! Nothing less sees it all: a look at the memory of a process finds only bytes that were not
//! overwritten since, and only sometimes tells their owner.
#![allow(unsafe_code, reason = "an allocator can't be written without")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::Cell,
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
};

use crate::secrets::Wanted;

#[global_allocator]
static ALLOCATOR: Watch = Watch;

/// Bytes that may not be in a freed block.
static WANTED: RwLock<Option<Wanted>> = RwLock::new(None);

/// The secret that was found, and the thread that freed it.
static FOUND: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// One test at a time: blocks freed by any thread are looked at.
static ALONE: Mutex<()> = Mutex::new(());

thread_local! {
    /// Whether this thread's blocks are not looked at, because it is the test's own.
    static BLIND: Cell<bool> = const { Cell::new(true) };
}

struct Watch;

// SAFETY: everything is left to the system's allocator; a block is read
// before it is freed, and only as far as its layout says.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Zeroed, or else a block holds the content of the one before where it is uninitialised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        look(unsafe { std::slice::from_raw_parts(block, layout.size()) });
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // As if every block moved: whether one does is chance.
        look(unsafe { std::slice::from_raw_parts(block, layout.size()) });
        let moved = unsafe { System.realloc(block, layout, size) };
        if let Some(new) = size.checked_sub(layout.size()).filter(|_| !moved.is_null()) {
            // As `alloc`.
            unsafe { moved.add(layout.size()).write_bytes(0, new) };
        }
        moved
    }
}

fn look(freed: &[u8]) {
    let blind = BLIND.try_with(|blind| blind.replace(true)).unwrap_or(true);
    if blind {
        return;
    }
    if let Some(wanted) = &*WANTED.read().unwrap_or_else(PoisonError::into_inner) {
        for what in wanted.within(freed) {
            let line = format!("{what} in {} bytes, freed by\n{}", freed.len(), callers());
            FOUND.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }
    BLIND.set(false);
}

/// The functions of this project that were running, the innermost first.
fn callers() -> String {
    let trace = Backtrace::force_capture().to_string();
    let ours = trace.lines().filter(|line| line.contains("meshsec") || line.contains("src/"));
    ours.filter(|line| !line.contains("watch")).take(16).collect::<Vec<_>>().join("\n")
}

/// A test that looks at freed memory, alone until it is dropped.
pub struct Looking(#[allow(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Looking {
    /// Begins to look for each of these, and for parts of them.
    pub fn for_all(secrets: Vec<(String, Vec<u8>)>) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        *WANTED.write().unwrap_or_else(PoisonError::into_inner) = Some(Wanted::new(secrets));
        FOUND.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Self(alone)
    }

    /// Runs the code under test; of the rest of the test nothing is looked at.
    pub fn at<T>(&self, work: impl FnOnce() -> T) -> T {
        BLIND.set(false);
        let done = work();
        BLIND.set(true);
        done
    }

    /// Fails if anything was found.
    #[track_caller]
    pub fn found_nothing(self, doing: &str) {
        let found = std::mem::take(&mut *FOUND.lock().unwrap_or_else(PoisonError::into_inner));
        let first: Vec<&String> = found.iter().take(4).collect();
        assert!(found.is_empty(), "{doing}: {} times, such as {first:#?}", found.len());
    }

    /// Fails unless something was found: the test looks where it should.
    #[allow(dead_code, reason = "not every test that includes this uses it")]
    #[track_caller]
    pub fn found_something(self) {
        assert!(!FOUND.lock().unwrap_or_else(PoisonError::into_inner).is_empty());
    }
}
