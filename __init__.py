"""Vision-language-action policies in MuJoCo: a planner, a flow-matching controller and a world model.

    tandem.envs       tasks, robot and experts, behind gymnasium (importing it registers the gymnasium ids)
    tandem.data       the contract, LeRobot data sets, statistics, the loader
    tandem.backbone   transformer blocks
    tandem.planner    System 2, the world model, plan search
    tandem.policy     System 1, the agent, training, evaluation, checkpoints
    tandem.scripts    the command line

The repository's root is this package. Importing it imports nothing else, so that `tandem --help` stays quick.
"""
