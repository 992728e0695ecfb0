"""The instances by name, a file for each kind of model."""

from parity.instance import Instance
from parity.instances import animatediff, cogvideox, hunyuan_video, ltx, pixart, stable_diffusion, stable_diffusion_xl, wan

MODULES = [wan, ltx, cogvideox, stable_diffusion, stable_diffusion_xl, animatediff, pixart, hunyuan_video]
INSTANCES: dict[str, Instance] = {instance.name: instance for module in MODULES for instance in module.INSTANCES}
