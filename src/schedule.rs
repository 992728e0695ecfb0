//! What a scheduler's configuration says: the noise levels of each step.

use serde::Deserialize;

/// A scheduler, by diffusers' class and field names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum SchedulerConfig {
    /// Flow matching by Euler steps.
    FlowMatchEulerDiscreteScheduler {
        /// Timesteps of training.
        num_train_timesteps: usize,
        /// Shift towards noise.
        shift: f64,
    },
}

impl SchedulerConfig {
    /// Refuses what can't be computed, naming field and value.
    pub fn validate(&self) -> Result<(), String> {
        let Self::FlowMatchEulerDiscreteScheduler { num_train_timesteps, shift } = self;
        match (num_train_timesteps, shift) {
            (1.., s) if *s > 0.0 => Ok(()),
            _ => Err(format!("num_train_timesteps {num_train_timesteps} and shift {shift} must be over 0")),
        }
    }
}
