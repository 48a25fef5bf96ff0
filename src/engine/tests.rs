//! Tests of the engine with a scripted port.
