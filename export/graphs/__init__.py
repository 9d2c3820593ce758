"""The four graphs as PyTorch modules with the contract's inputs and outputs, ready to be traced.

``preprocessor``, ``decoder`` and ``joint`` have one form. The encoder step has two: ``encoder_nemo`` runs NeMo's
own modules, ``encoder_rewritten`` the step rewritten for inference. All modules take any batch size.
"""
