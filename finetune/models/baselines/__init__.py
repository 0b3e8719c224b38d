"""Two small recognisers to compare wav2vec2 with, as models of Transformers: a bidirectional LSTM and convolutions.

Importing this package registers them, so that `AutoModelForCTC` and `pipeline` load their folders. It imports nothing
else of finetune: what plain Transformers recognises after `import finetune.models.baselines` is what is published.
"""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCTC,
    AutoTokenizer,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
)

from finetune.models.baselines.configuration import BaselineConfig, CNNConfig, LSTMConfig
from finetune.models.baselines.modeling import CNNForCTC, CNNModel, LSTMForCTC, LSTMModel

__all__ = ["CONFIGS", "CNNConfig", "CNNForCTC", "CNNModel", "LSTMConfig", "LSTMForCTC", "LSTMModel"]

# By the `type` in a recipe's model.architecture.
CONFIGS: dict[str, type[BaselineConfig]] = {"lstm": LSTMConfig, "cnn": CNNConfig}

for _config, _model, _ctc in ((LSTMConfig, LSTMModel, LSTMForCTC), (CNNConfig, CNNModel, CNNForCTC)):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
    AutoModelForCTC.register(_config, _ctc)
    AutoFeatureExtractor.register(_config, Wav2Vec2FeatureExtractor)
    AutoTokenizer.register(_config, Wav2Vec2CTCTokenizer)
