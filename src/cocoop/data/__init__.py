"""Data sets: items and splits, few-shot sampling, and images as tensors. Nothing here depends on a model.

data = load_data("photos").few_shot(16, seed=1).base()
data.check_trainable()
data.check_files()
"""

import lazy_loader

# Names are imported on first use: listing images, few-shot sampling and the catalog do not need PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
