"""cocoop: conditional prompt learning (CoCoOp), CoOp and zero-shot CLIP for your own images.

import cocoop

backbone = cocoop.load_backbone("lite")
data = cocoop.load_data("photos").few_shot(16, seed=1)
method = cocoop.CoCoOp(backbone, data.classnames)
cocoop.fit(method, data, cocoop.TrainConfig(epochs=10))
print(cocoop.evaluate(method, data).accuracy)

`__init__.pyi` lists the public names and their modules. They are imported on first use, because PyTorch and open_clip
take seconds to import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
