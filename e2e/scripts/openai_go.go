// A conversation by openai-go: openai_go DIALECT TURN..., with the environment of talk.py.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
)

var (
	ctx        = context.Background()
	system     = os.Getenv("TALK_SYSTEM")
	parameters = map[string]any{
		"type":                 "object",
		"properties":           map[string]any{"city": map[string]any{"type": "string"}},
		"required":             []string{"city"},
		"additionalProperties": false,
	}
	descriptions = map[string]string{
		"weather": "The weather in a city.",
		"clock":   "The time in a city.",
	}
	formats = map[string]string{"weather": "The sun shines %s", "clock": "It is noon %s"}
)

func run(name string, arguments string) string {
	var given struct{ City string }
	if err := json.Unmarshal([]byte(arguments), &given); err != nil {
		log.Fatalf("arguments %q: %v", arguments, err)
	}
	return fmt.Sprintf(formats[name], given.City)
}

func say(answer string) {
	text, err := json.Marshal(answer)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
}

func chat(client openai.Client, model string, turns []string) {
	params := openai.ChatCompletionNewParams{
		Model:    model,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.SystemMessage(system)},
	}
	for _, name := range []string{"weather", "clock"} {
		params.Tools = append(params.Tools, openai.ChatCompletionFunctionTool(
			openai.FunctionDefinitionParam{
				Name:        name,
				Description: openai.String(descriptions[name]),
				Parameters:  parameters,
			}))
	}
	for _, turn := range turns {
		params.Messages = append(params.Messages, openai.UserMessage(turn))
		for {
			stream := client.Chat.Completions.NewStreaming(ctx, params)
			accumulated := openai.ChatCompletionAccumulator{}
			for stream.Next() {
				if !accumulated.AddChunk(stream.Current()) {
					log.Fatalf("a chunk does not fit: %s", stream.Current().RawJSON())
				}
				accumulated.JustFinishedContent()
			}
			if err := stream.Err(); err != nil {
				log.Fatal(err)
			}
			message := accumulated.Choices[0].Message
			params.Messages = append(params.Messages, message.ToParam())
			if len(message.ToolCalls) == 0 {
				say(message.Content)
				break
			}
			for _, call := range message.ToolCalls {
				result := run(call.Function.Name, call.Function.Arguments)
				params.Messages = append(params.Messages, openai.ToolMessage(result, call.ID))
			}
		}
	}
}

func respond(client openai.Client, model string, turns []string) {
	params := responses.ResponseNewParams{Model: model, Instructions: openai.String(system)}
	for _, name := range []string{"weather", "clock"} {
		params.Tools = append(params.Tools, responses.ToolUnionParam{
			OfFunction: &responses.FunctionToolParam{
				Name:        name,
				Description: openai.String(descriptions[name]),
				Parameters:  parameters,
			}})
	}
	for _, turn := range turns {
		input := []responses.ResponseInputItemUnionParam{
			responses.ResponseInputItemParamOfMessage(turn, responses.EasyInputMessageRoleUser)}
		for len(input) > 0 {
			params.Input = responses.ResponseNewParamsInputUnion{OfInputItemList: input}
			stream := client.Responses.NewStreaming(ctx, params)
			streamed := ""
			var answer responses.Response
			for stream.Next() {
				event := stream.Current()
				switch event.Type {
				case "response.output_text.delta":
					streamed += event.Delta
				case "response.completed", "response.failed", "response.incomplete":
					answer = event.Response
				}
			}
			if err := stream.Err(); err != nil {
				log.Fatal(err)
			}
			if answer.Status != "completed" {
				log.Fatalf("not completed: %s", answer.RawJSON())
			}
			if streamed != answer.OutputText() {
				log.Fatalf("streamed %q, completed with %q", streamed, answer.OutputText())
			}
			params.PreviousResponseID = openai.String(answer.ID)
			input = nil
			for _, item := range answer.Output {
				if item.Type == "function_call" {
					call := item.AsFunctionCall()
					output := responses.ResponseInputItemParamOfFunctionCallOutput(
						run(call.Name, call.Arguments))
					output.OfFunctionCallOutput.CallID = openai.String(call.CallID)
					input = append(input, output)
				}
			}
			if len(input) == 0 {
				say(answer.OutputText())
			}
		}
	}
}

func main() {
	log.SetFlags(0)
	client := openai.NewClient(
		option.WithBaseURL(os.Getenv("TALK_BASE_URL")+"/v1"), option.WithAPIKey("unused"))
	dialects := map[string]func(openai.Client, string, []string){
		"chat": chat, "responses": respond}
	for _, model := range strings.Split(os.Getenv("TALK_MODELS"), " ") {
		dialects[os.Args[1]](client, model, os.Args[2:])
	}
}
