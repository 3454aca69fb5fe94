"""The networks of a policy: scene encoder, goal readout, controller, and what reinforcement learning adds to them."""
