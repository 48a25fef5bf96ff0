//! A table of things in flight with small numbers for keys, which come back quickly and are used again.
//!
//! Promises: no allocation below the capacity it was made with. Refuses to know what it holds.

#[derive(Debug)]
pub(super) struct Slots<T> {
    entries: Vec<Option<T>>,
    free: Vec<usize>,
    capacity: usize,
}

impl<T> Slots<T> {
    pub(super) fn new(capacity: usize) -> Slots<T> {
        Slots { entries: Vec::with_capacity(capacity), free: Vec::with_capacity(capacity), capacity }
    }

    /// Used beyond its capacity, the table grows.
    pub(super) fn insert(&mut self, value: T) -> usize {
        match self.free.pop() {
            Some(key) => {
                self.entries[key] = Some(value);
                key
            }
            None => {
                self.entries.push(Some(value));
                self.entries.len() - 1
            }
        }
    }

    pub(super) fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        self.entries.get_mut(key)?.as_mut()
    }

    pub(super) fn remove(&mut self, key: usize) -> Option<T> {
        let value = self.entries.get_mut(key)?.take()?;
        self.free.push(key);
        Some(value)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }
}
