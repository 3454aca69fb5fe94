"""The 50 tasks of Meta-World by difficulty, with what the agent is told and what it handles. No package is needed here.

The tiers are those in which language-conditioned policies report MT50 (Seo et al., arXiv 2206.14244). The instructions
say what the published task descriptions say, but differ for every two tasks: `push` and `push-back` share one there.
"""

Task = tuple[str, str]  # instruction, what is handled first
EASY: dict[str, Task] = {
    "button-press": ("press the button", "button"),
    "button-press-topdown": ("press the button from the top", "button"),
    "button-press-topdown-wall": ("press the button behind the wall from the top", "button"),
    "button-press-wall": ("press the button behind the wall", "button"),
    "coffee-button": ("press the button of the coffee machine", "button"),
    "dial-turn": ("turn the dial", "dial"),
    "door-close": ("close the door", "door handle"),
    "door-lock": ("lock the door", "lock"),
    "door-open": ("open the door", "door handle"),
    "door-unlock": ("unlock the door", "lock"),
    "drawer-close": ("close the drawer", "drawer"),
    "drawer-open": ("open the drawer", "drawer"),
    "faucet-close": ("turn the faucet clockwise", "faucet"),
    "faucet-open": ("turn the faucet counter-clockwise", "faucet"),
    "handle-press": ("press the handle down", "handle"),
    "handle-press-side": ("press the handle down from the side", "handle"),
    "handle-pull": ("pull the handle up", "handle"),
    "handle-pull-side": ("pull the handle up from the side", "handle"),
    "lever-pull": ("pull the lever", "lever"),
    "peg-unplug-side": ("unplug the peg", "peg"),
    "plate-slide": ("slide the plate into the cabinet", "plate"),
    "plate-slide-back": ("slide the plate out of the cabinet", "plate"),
    "plate-slide-back-side": ("slide the plate out of the cabinet from the side", "plate"),
    "plate-slide-side": ("slide the plate into the cabinet from the side", "plate"),
    "reach": ("reach the goal", "goal"),
    "reach-wall": ("reach the goal behind the wall", "goal"),
    "window-close": ("close the window", "window handle"),
    "window-open": ("open the window", "window handle"),
}
MEDIUM: dict[str, Task] = {
    "basketball": ("put the basketball into the basket", "basketball"),
    "bin-picking": ("put the puck into the other bin", "puck"),
    "box-close": ("close the box with the cover", "cover"),
    "coffee-pull": ("pull the mug away from the coffee machine", "mug"),
    "coffee-push": ("push the mug under the coffee machine", "mug"),
    "hammer": ("hammer the nail", "hammer"),
    "peg-insert-side": ("insert the peg", "peg"),
    "push-wall": ("push the puck around the wall to the goal", "puck"),
    "soccer": ("push the ball into the goal", "ball"),
    "sweep": ("sweep the puck off the table", "puck"),
    "sweep-into": ("sweep the puck into the hole", "puck"),
}
HARD: dict[str, Task] = {
    "assembly": ("put the nut onto the peg", "nut"),
    "hand-insert": ("insert the gripper into the hole", "puck"),
    "pick-out-of-hole": ("pick the puck out of the hole", "puck"),
    "pick-place": ("pick up the puck and take it to the goal", "puck"),
    "push": ("push the puck to the goal", "puck"),
    "push-back": ("push the puck back to the goal", "puck"),
}
VERY_HARD: dict[str, Task] = {
    "disassemble": ("take the nut off the peg", "nut"),
    "pick-place-wall": ("take the puck over the wall to the goal", "puck"),
    "shelf-place": ("put the puck onto the shelf", "puck"),
    "stick-pull": ("pull the box with the stick", "stick"),
    "stick-push": ("push the box with the stick", "stick"),
}
TIERS = {"easy": EASY, "medium": MEDIUM, "hard": HARD, "very-hard": VERY_HARD}
MT50 = EASY | MEDIUM | HARD | VERY_HARD
MT10 = (
    "reach", "push", "pick-place", "door-open", "drawer-open", "drawer-close", "button-press-topdown",
    "peg-insert-side", "window-open", "window-close",
)  # fmt: skip
