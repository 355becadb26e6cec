//! Jobs of the control plane: their inputs, the steps that run here, and the hand-over of the others to agents.

pub mod input;
