"""PPO and GRPO: a policy gradient through one step of the flow."""
